"""A tiny GGUF file becomes a checkpoint folder, or a sentence and nothing else."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from dpjax.cli.main import main
from dpjax.models import convert_gguf, load_causal_lm, load_tokenizer, read_config
from dpjax.models.gguf import convert
from tests.support import tiny_gguf
from tests.support.tiny_gguf import KINDS, metadata, write_gguf, write_llama
from tests.support.tiny_tokenizers import END, TURNS


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.gguf"


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_weights_arrive_in_the_layout_of_transformers(file, tmp_path, kind):
    expected = write_llama(file, kind=kind)
    convert_gguf(file, tmp_path / "lm")
    weights = load_file(tmp_path / "lm" / "model.safetensors")
    assert weights.keys() == expected.keys()
    for name, values in weights.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


@pytest.mark.parametrize(("tied", "biased"), [(True, True), (False, False)])
def test_heads_and_biases_are_those_of_the_file(file, tmp_path, tied, biased):
    expected = write_llama(file, tied=tied, biased=biased)
    convert_gguf(file, tmp_path / "lm")
    weights = load_file(tmp_path / "lm" / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all((weights[name] == values).all() for name, values in expected.items())
    config = config_of(tmp_path / "lm")
    assert config["tie_word_embeddings"] is tied
    assert config["attention_bias"] is config["mlp_bias"] is biased


def test_the_config_says_what_the_file_says(file, tmp_path):
    write_llama(file, **{"tokenizer.ggml.eot_token_id": 0})
    convert_gguf(file, tmp_path / "lm")
    ids = {token: id_ for id_, token in enumerate(metadata()["tokenizer.ggml.tokens"])}
    named = {"bos_token_id": ids["<s>"], "pad_token_id": ids[END]}
    assert config_of(tmp_path / "lm") == named | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(ids),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "rope_theta": 10_000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "dtype": "float32",
        "eos_token_id": ids[TURNS[1]],
    }
    generation = json.loads((tmp_path / "lm" / "generation_config.json").read_text())
    assert generation == named | {"eos_token_id": [ids[TURNS[1]], 0]}


def test_what_the_file_leaves_out_has_the_values_of_llama_cpp(file, tmp_path):
    left_out = ("attention.head_count_kv", "rope.freq_base", "rope.dimension_count", "vocab_size")
    tensors = {
        tiny_gguf.gguf_name(name): (values, "F32")
        for name, values in tiny_gguf.weights().items()
        if "k_proj" not in name and "v_proj" not in name
    }
    keys = np.zeros((64, 64), np.float32)
    tensors |= {f"blk.{i}.attn_{name}.weight": (keys, "F32") for i in range(2) for name in "kv"}
    write_gguf(file, metadata(**{f"llama.{key}": None for key in left_out}), tensors)
    convert_gguf(file, tmp_path / "lm")
    config = config_of(tmp_path / "lm")
    assert (config["num_key_value_heads"], config["rope_theta"], config["head_dim"]) == (4, 1e4, 16)


def llama3_divisors(factor=8.0):
    """As llama.cpp's converter computes them of the scaling of Llama 3.1."""
    lengths = 2 * np.pi * 10_000.0 ** (np.arange(0, 16, 2) / 16)
    smooth = (8192 / lengths - 1.0) / (4.0 - 1.0)
    between = 1 / ((1 - smooth) / factor + smooth)
    kept, divided = lengths < 8192 / 4.0, lengths > 8192 / 1.0
    return np.where(kept, 1.0, np.where(divided, factor, between)).astype(np.float32)


def test_scaled_positions(file, tmp_path):
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    write_llama(file, **linear)
    convert_gguf(file, tmp_path / "linear")
    assert read_config(tmp_path / "linear").rope.linear_factor == 2.0
    write_llama(file, extra={"rope_freqs.weight": llama3_divisors()})
    convert_gguf(file, tmp_path / "llama3")
    assert read_config(tmp_path / "llama3").rope.llama3 == (8.0, 1.0, 4.0, 8192)


def test_the_command_writes_what_loads(file, tmp_path, capsys):
    write_llama(file, kind="Q4_1")
    assert main(["convert-gguf", str(file), str(tmp_path / "lm")]) == 0
    assert "wrote" in capsys.readouterr().out
    assert load_tokenizer(tmp_path / "lm").eos_token == TURNS[1]
    model = load_causal_lm(tmp_path / "lm")
    assert (model.config.model_type, model.config.num_layers) == ("llama", 2)
    assert main(["convert-gguf", str(file), str(tmp_path / "lm")]) == 2
    assert "lm exists. Give a new folder." in capsys.readouterr().err


REFUSED = {
    "general.architecture must be 'llama'": {"general.architecture": "qwen2"},
    "expert_count must be 0": {"llama.expert_count": 8},
    "must have no llama.attention.scale": {"llama.attention.scale": 0.5},
    "rope.scaling.type must be none or linear": {"llama.rope.scaling.type": "yarn"},
    "rope.scaling.factor must be a positive": {"llama.rope.scaling.type": "linear"},
    "rope.dimension_count must be the size of a head, 16": {"llama.rope.dimension_count": 8},
    "value_length must be the size of a head, 16": {"llama.attention.value_length": 8},
    "block_count must be a positive whole number": {"llama.block_count": None},
    "feed_forward_length must be a positive whole": {"llama.feed_forward_length": [96, 96]},
    "rms_epsilon must be a positive number": {"llama.attention.layer_norm_rms_epsilon": None},
    "but it lacks the tensor blk.2.attn_norm": {"llama.block_count": 3},
    "but it holds the tensor blk.1": {"llama.block_count": 1},
    "has shape .96, 64., but its metadata implies .95, 64.": {"llama.feed_forward_length": 95},
    "got one of 3 parts": {"split.count": 3},
    "model must be 'gpt2', byte-level BPE, got 'llama'": {"tokenizer.ggml.model": "llama"},
    "pre must be one of .*, got 'dolphin12b'": {"tokenizer.ggml.pre": "dolphin12b"},
    "pre must be one of .*, got None": {"tokenizer.ggml.pre": None},
    "merges must be pairs of tokens": {"tokenizer.ggml.merges": ["th e", "nowhere to"]},
    "merges must be a list of texts": {"tokenizer.ggml.merges": None},
    "id of eos_token must be below": {"tokenizer.ggml.eos_token_id": 4000},
    "token_type must have an entry for each": {"tokenizer.ggml.token_type": [1, 1]},
    "row of the embedding for each token": {
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(1000)]
    },
    "got 'twice' twice": {"tokenizer.ggml.tokens": ["twice", "once", "twice"]},
    "asks for the bos_token around every text": {
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.bos_token_id": None,
    },
    "chat_template must be a text": {"tokenizer.chat_template": 7},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_not_supported_is_said(file, tmp_path, sentence):
    write_llama(file, **REFUSED[sentence])
    with pytest.raises(ValueError, match=sentence):
        convert_gguf(file, tmp_path / "lm")
    assert list(tmp_path.iterdir()) == [file]


def test_other_divisors_of_the_frequencies_are_refused(file, tmp_path):
    write_llama(file, extra={"rope_freqs.weight": llama3_divisors() + 0.1})
    with pytest.raises(ValueError, match=r"must be that of Llama 3\.1"):
        convert_gguf(file, tmp_path / "lm")


def test_a_kind_that_is_not_read_is_named(file, tmp_path):
    embedding = np.zeros((8, 66), np.uint8)
    write_gguf(file, metadata(), {"token_embd.weight": (embedding, "IQ2_XXS")})
    with pytest.raises(ValueError, match="got tensors in IQ2_XXS"):
        convert_gguf(file, tmp_path / "lm")


def test_a_truncated_file_is_said_wherever_it_ends(file, tmp_path):
    write_llama(file, kind="Q4_0")
    whole = file.read_bytes()
    # At the end of a file is padding, which nobody reads.
    ends = [*range(4, 24), *np.linspace(24, len(whole) - 64, 40).astype(int)]
    for end in ends:
        file.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="is truncated or damaged"):
            convert_gguf(file, tmp_path / "lm")
    assert list(tmp_path.iterdir()) == [file]


def test_files_that_are_none(file, tmp_path):
    for start in (b"", b"GG", b"PK\x03\x04 and more"):
        file.write_bytes(start)
        with pytest.raises(ValueError, match="must be a GGUF file"):
            convert_gguf(file, tmp_path / "lm")
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="git lfs pull"):
        convert_gguf(file, tmp_path / "lm")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        convert_gguf(tmp_path / "other.gguf", tmp_path / "lm")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        convert_gguf(tmp_path, tmp_path / "lm")
    with pytest.raises(FileNotFoundError, match="Make this folder first"):
        convert_gguf(file, tmp_path / "none" / "lm")


def test_nothing_is_left_of_a_conversion_that_fails(file, tmp_path, monkeypatch):
    def fill_the_disk(folder, tensors):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("No space left on device")

    write_llama(file)
    monkeypatch.setattr(convert, "write_tensors", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        convert_gguf(file, tmp_path / "lm")
    assert list(tmp_path.iterdir()) == [file]


def test_without_the_package_the_command_says_what_to_install(file, tmp_path, monkeypatch, capsys):
    write_llama(file)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert main(["convert-gguf", str(file), str(tmp_path / "lm")]) == 2
    assert 'pip install "dpjax[gguf]"' in capsys.readouterr().err
