"""Equality with transformers' own reading of GGUF files, on torch."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

from dpjax.models import convert_gguf, load_causal_lm, load_tokenizer
from dpjax.models.gguf.file import open_gguf
from tests.models.gguf.test_vocabulary import TEXTS
from tests.support.tiny_gguf import KINDS, metadata, write_gguf, write_llama

pytestmark = [
    pytest.mark.slow,
    # torch reads the file from memory that it may not write to.
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning"),
]

# Of a block of 256 numbers: its bytes, and where its scales in float16 begin.
K_KINDS = {
    "Q2_K": (84, (80, 82)),
    "Q3_K": (110, (108,)),
    "Q4_K": (144, (0, 2)),
    "Q5_K": (176, (0, 2)),
    "Q6_K": (210, (208,)),
}


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def original(torch):
    """Function (file) -> transformers' model of it."""
    import transformers

    def load(file):
        return transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        ).eval()

    return load


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_transformers(torch, original, tmp_path, kind, tied):
    import transformers

    file, folder = tmp_path / "model.gguf", tmp_path / "lm"
    write_llama(file, kind=kind, tied=tied)
    convert_gguf(file, folder)
    ids = np.random.default_rng(1).integers(0, 300, (3, 40))
    mask = np.ones(ids.shape, bool)
    mask[1, 25:] = mask[2, 1:] = False
    inputs = {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask.astype(int)),
        "position_ids": torch.arange(40)[None].expand(3, -1),
    }
    with torch.no_grad():
        expected = original(file)(**inputs).logits.numpy()
        opened = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        reread = opened(**inputs).logits.numpy()
    ours = np.asarray(load_causal_lm(folder)(ids, mask))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(reread[mask] / scale, expected[mask] / scale, atol=1e-6)
    np.testing.assert_allclose(ours[mask] / scale, expected[mask] / scale, atol=5e-6)


@pytest.mark.parametrize("kind", K_KINDS)
def test_blocks_of_256_are_those_of_torch(torch, tmp_path, kind):
    """transformers turns them into numbers by a program of its own."""
    from transformers.integrations.gguf import dequant

    num_bytes, scales = K_KINDS[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (8, num_bytes), np.uint8)
    for start in scales:
        blocks[:, start : start + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    file = write_gguf(tmp_path / "model.gguf", metadata(), {"token_embd.weight": (blocks, kind)})
    values = open_gguf(file).tensors["token_embd.weight"].read()
    type_ = gguf.GGMLQuantizationType[kind]
    expected = dequant.dequantize(torch.tensor(blocks), int(type_)).numpy()
    np.testing.assert_allclose(values, expected.reshape(8, 256), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "smollm"])
def test_texts_are_encoded_as_by_transformers(torch, tmp_path, pre):
    import transformers

    file, folder = tmp_path / "model.gguf", tmp_path / "lm"
    write_llama(file, **{"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": False})
    convert_gguf(file, folder)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    if pre == "smollm":
        # transformers takes it for GPT-2's, without the digits that tokenizer.json of SmolLM2 has.
        theirs.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )
    ours = load_tokenizer(folder)

    @settings(max_examples=2000, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(text=TEXTS)
    def check(text):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]

    check()
