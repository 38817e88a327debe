"""Runs that teach a decoder to write, on every format of records."""

import json
import random

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import dpjax
from dpjax.models import (
    CausalLM,
    load_adapter,
    load_causal_lm,
    load_tokenizer,
    merge_lora,
    parse_config,
    save_model,
)

COLOURS = {"apple": "red", "sky": "blue", "grass": "green", "snow": "white"}
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}"
    "{{ eos_token }}{% endgeneration %}{% else %}U:{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
TINY_GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 48,
    "initializer_range": 0.1,
}


@pytest.fixture(scope="session")
def decoder(tmp_path_factory):
    """A random GPT-2 with a byte-level tokenizer that has no padding token, as a folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [f"the {thing} is {colour}" for thing, colour in COLOURS.items()] * 3
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    source = tmp_path_factory.mktemp("decoder")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(source)
    raw = TINY_GPT2 | {"vocab_size": len(fast), "eos_token_id": 0, "bos_token_id": 0}
    (source / "config.json").write_text(json.dumps(raw))
    model = CausalLM(parse_config(raw), rngs=nnx.Rngs(0))
    folder = tmp_path_factory.mktemp("decoder") / "checkpoint"
    save_model(model, source, folder)
    return folder


def write_lines(path, num, seed, make):
    things = random.Random(seed).choices(list(COLOURS), k=num)
    path.write_text("".join(json.dumps(make(thing, COLOURS[thing])) + "\n" for thing in things))
    return path


FORMATS = {
    "text": lambda thing, colour: {"text": f"the {thing} is {colour}"},
    "prompt_completion": lambda thing, colour: {
        "prompt": f"the {thing} is",
        "completion": f" {colour}",
    },
    "messages": lambda thing, colour: {
        "messages": [
            {"role": "user", "content": f"the {thing}?"},
            {"role": "assistant", "content": colour},
        ]
    },
}


@pytest.fixture
def language_options(decoder, tmp_path):
    """Function from a format to the options of a run of a few seconds."""

    def make(record_format, **changes):
        make_record = FORMATS[record_format]
        options = {
            "model": decoder,
            "task": "causal_lm",
            "train_data": write_lines(tmp_path / "train.jsonl", 200, 0, make_record),
            "eval_data": write_lines(tmp_path / "eval.jsonl", 40, 1, make_record),
            "output_dir": tmp_path / "run",
            "tuning": "full",
            "privacy": {"noise_multiplier": 0.5, "clip_norm": 1.0},
            "training": {
                "expected_batch_size": 64,
                "microbatch_size": 32,
                "num_steps": 30,
                "learning_rate": 1e-2,
                "max_length": 24,
            },
            "generation": {"num_prompts": 4, "max_new_tokens": 8},
            "seed": 5,
        }
        return options | changes

    return make


@pytest.mark.parametrize("record_format", FORMATS)
def test_a_decoder_learns_to_write(language_options, record_format):
    result = dpjax.finetune(**language_options(record_format))
    losses = [row["loss"] for row in result.metrics]
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert result.eval_accuracy is None
    assert result.eval_perplexity < 10
    assert result.epsilon > 0
    report = (result.output_dir / "report.md").read_text()
    assert "Perplexity of held-out tokens" in report
    if record_format == "text":
        assert result.samples == []
    else:
        right = [sample.written == sample.expected for sample in result.samples]
        assert len(right) == 4 and sum(right) >= 3
        assert result.samples[0].written in report
    privacy = json.loads((result.output_dir / "privacy.json").read_text())
    assert "labels" not in json.dumps(privacy["assumptions"])


def test_lora_in_other_ways_of_computing_gives_the_same_model(language_options, tmp_path):
    options = language_options("prompt_completion", tuning="lora", lora={"rank": 4})
    options["training"]["num_steps"] = 4
    plain = dpjax.finetune(**options)
    other = dpjax.finetune(
        **options
        | {
            "output_dir": tmp_path / "other",
            "compute": {"scan_layers": True, "rematerialise": True, "vocab_chunk": 64},
        }
    )
    # Stacked adapters start from other random numbers.
    assert other.eval_perplexity == pytest.approx(plain.eval_perplexity, rel=0.2)
    base = load_causal_lm(options["model"])
    load_adapter(base, other.output_dir / "adapter")
    merge_lora(base)
    opened = load_causal_lm(other.output_dir / "model")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        nnx.state(base),
        nnx.state(opened),
    )
    assert opened.config == load_causal_lm(plain.output_dir / "model").config


def test_a_frozen_base_in_bfloat16_is_merged_in_bfloat16(language_options):
    options = language_options("text", tuning="lora", compute={"frozen_dtype": "bfloat16"})
    options["training"]["num_steps"] = 2
    result = dpjax.finetune(**options)
    merged, adapter = (
        load_file(result.output_dir / name)
        for name in ("model/model.safetensors", "adapter/adapter_model.safetensors")
    )
    assert {tensor.dtype.name for tensor in merged.values()} == {"bfloat16"}
    assert {tensor.dtype.name for tensor in adapter.values()} == {"float32"}
    base = load_file(options["model"] / "model.safetensors")
    name = "transformer.wpe.weight"
    np.testing.assert_array_equal(merged[name], base[name].astype(merged[name].dtype))


def test_a_tuned_model_opens_in_transformers(language_options):
    torch = pytest.importorskip("torch")
    import transformers

    options = language_options("prompt_completion")
    options["training"]["num_steps"] = 3
    folder = dpjax.finetune(**options).output_dir / "model"
    opened = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = load_tokenizer(folder, needs_padding=False)("the sky is blue")["input_ids"]
    with torch.no_grad():
        expected = opened(torch.tensor([ids])).logits[0].numpy()
    ours = load_causal_lm(folder)
    found = ours(jax.numpy.asarray(ids), jax.numpy.ones(len(ids), bool))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "mean"}, "pooling has no meaning with task=causal_lm"),
        ({"num_layers": 1}, "num_layers has no meaning"),
        ({"training": {"label_smoothing": 0.1}}, r"training\.label_smoothing has no meaning"),
        ({"task": "sequence_classification", "separator": " "}, "separator has no meaning"),
        ({"generation": {"max_new_tokens": 40}}, "more than the 48 positions"),
        ({"compute": {"vocab_chunk": 0}}, "vocab_chunk must be at least 1, got 0"),
    ],
)
def test_options_of_the_other_task_are_refused(language_options, changes, message):
    with pytest.raises(ValueError, match=message):
        dpjax.finetune(**language_options("prompt_completion", **changes))


def test_an_encoder_cannot_write(language_options, tiny_checkpoint):
    with pytest.raises(ValueError, match="no head for causal lm"):
        dpjax.finetune(**language_options("text", model=tiny_checkpoint))
