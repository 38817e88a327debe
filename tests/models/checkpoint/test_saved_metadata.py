"""What a saved model's JSON files say is what tuning used: padding, end tokens, whether tied."""

import json

import jax
import numpy as np
import pytest

from dpjax.models import (
    end_token_ids,
    load_causal_lm,
    load_classifier,
    load_tokenizer,
    save_model,
)
from tests.support.tiny_checkpoints import LABELS, random_model, write_config
from tests.support.tiny_tokenizers import VOCABULARY, write_word_level


@pytest.fixture
def source(tmp_path):
    """Function that writes a config.json and a tokenizer, whose padding is token 0."""

    def write(family="llama", **changes):
        folder = write_config(tmp_path / "source", family, **changes)
        write_word_level(folder, VOCABULARY, eos="[SEP]")
        return folder

    return write


def contents(folder, name):
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("padding", [None, 0, 5, -1, 10**6])
def test_a_decoder_that_classifies_says_the_padding_of_its_tokenizer(
    source, tmp_path, family, padding
):
    folder = source(family, pad_token_id=padding)
    model = random_model(family, "sequence_classification")
    save_model(model, tmp_path / "out", source=folder, label_names=LABELS)
    assert contents(tmp_path / "out", "config.json")["pad_token_id"] == 0


@pytest.mark.parametrize(("padding", "saved"), [(None, None), (5, 5), (-1, None), (10**6, None)])
def test_without_a_tokenizer_a_wrong_padding_is_left_out(tmp_path, padding, saved):
    folder = write_config(tmp_path / "source", "llama", pad_token_id=padding)
    model = random_model("llama", "sequence_classification")
    save_model(model, tmp_path / "out", source=folder, label_names=LABELS)
    assert contents(tmp_path / "out", "config.json")["pad_token_id"] == saved


@pytest.mark.parametrize("padding", [None, 5, -1])
def test_transformers_finds_the_ends_of_padded_texts(source, tmp_path, padding):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = source("llama", pad_token_id=padding)
    save_model(
        random_model("llama", "sequence_classification"),
        tmp_path / "out",
        source=folder,
        label_names=LABELS,
    )
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    tokenizer.padding_side = "right"
    encoded = tokenizer(["the", "the clinic called", "the called"], padding=True)
    ids, mask = (np.array(encoded[name]) for name in ("input_ids", "attention_mask"))
    assert not mask.all()
    with torch.no_grad():
        expected = opened.eval()(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
    model = load_classifier(tmp_path / "out", label_names=LABELS, key=jax.random.key(0))
    found = model(ids.astype(np.int32), mask.astype(bool))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ({"eos_token_id": 2}, {}, (2, 3)),
        ({"eos_token_id": [5, 3, 2]}, {}, (5, 3, 2)),
        ({"eos_token_id": None}, {}, (3,)),
        ({"temperature": 0.5}, {}, (3,)),
        # Beyond the vocabulary: never written.
        ({"eos_token_id": [-1, 61, 60]}, {}, (60, 3)),
        # Without the file transformers goes by config.json.
        (None, {"eos_token_id": 7}, (7, 3)),
        (None, {"eos_token_id": [7, 8]}, (7, 8, 3)),
        (None, {"eos_token_id": None}, (3,)),
    ],
)
def test_any_end_token_ends_a_text(source, tmp_path, generation, config, ends):
    folder = source(**config)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token_id == 3
    assert end_token_ids(folder, tokenizer) == ends
    save_model(random_model("llama", "causal_lm"), tmp_path / "out", source=folder)
    saved = contents(tmp_path / "out", "generation_config.json")
    assert saved["eos_token_id"] == (list(ends) if len(ends) > 1 else ends[0])
    kept = {name: value for name, value in (generation or {}).items() if name != "eos_token_id"}
    assert saved.items() >= kept.items()
    # Saved and tuned again, nothing is added.
    assert set(end_token_ids(tmp_path / "out", load_tokenizer(tmp_path / "out"))) == set(ends)


def test_transformers_stops_at_the_saved_end_tokens(source, tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = source()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    save_model(random_model("llama", "causal_lm"), tmp_path / "out", source=folder)
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert sorted(opened.generation_config.eos_token_id) == [2, 3]


def write_tied(folder, head):
    """A checkpoint whose config.json ties head and embedding, and which holds `head` as well."""
    from safetensors.numpy import load_file, save_file

    source = write_config(folder / "source", "llama", tie_word_embeddings=True)
    model = random_model("llama", "causal_lm", tied_head=True)
    save_model(model, folder / "tied", source=source)
    tensors = load_file(folder / "tied" / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = head(embedding)
    save_file(tensors, folder / "tied" / "model.safetensors", metadata={"format": "pt"})
    return folder / "tied"


IDS = np.arange(3, 17)[None].astype(np.int32)


@pytest.mark.parametrize(
    ("head", "is_tied"), [(np.copy, True), (lambda embedding: embedding[::-1].copy(), False)]
)
@pytest.mark.slow
def test_a_head_beside_a_tied_embedding_is_used_if_it_differs(tmp_path, head, is_tied):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = write_tied(tmp_path, head)
    model = load_causal_lm(folder)
    assert model.config.tied_head == is_tied
    found = model(IDS, np.ones_like(IDS, bool))
    save_model(model, tmp_path / "again", source=folder)
    assert contents(tmp_path / "again", "config.json")["tie_word_embeddings"] == is_tied
    for saved in (folder, tmp_path / "again"):
        opened = transformers.AutoModelForCausalLM.from_pretrained(saved)
        with torch.no_grad():
            expected = opened.eval()(torch.tensor(IDS).long()).logits.numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_tied_embedding_under_the_name_of_the_head_only(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = write_tied(tmp_path, np.copy)
    expected = load_causal_lm(folder)(IDS, np.ones_like(IDS, bool))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = load_causal_lm(folder)(IDS, np.ones_like(IDS, bool))
    np.testing.assert_array_equal(found, expected)


def test_a_head_of_another_shape_is_refused(tmp_path):
    folder = write_tied(tmp_path, lambda embedding: np.concatenate([embedding, embedding[:3]]))
    with pytest.raises(ValueError, match=r"lm_head\.weight has shape \(64, 32\), .*\(61, 32\)"):
        load_causal_lm(folder)
