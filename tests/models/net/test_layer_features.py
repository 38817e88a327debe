"""Features of several layers: what they are, how they are stored, what is never trained."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transformers import AutoConfig

from dpjax.demo.checkpoint import find_minilm
from dpjax.models import (
    Loading,
    LoraConfig,
    Trainable,
    add_lora,
    centre_features,
    cut_lower_layers,
    load_causal_lm,
    load_classifier,
    load_tokenizer,
    lower_hidden_states,
    lowest_trained_layer,
    read_config,
    save_model,
    split_trainable,
    start_from_words,
)
from tests.support.tiny_checkpoints import LABELS, ragged_batch, random_model, run, write_config

KEY = jax.random.key(0)
FAMILIES = ("bert", "distilbert", "roberta", "gpt2", "llama", "gemma3_text")
TEXTS = ["the bill is late", "I feel ill", "an invoice of last month, please", "no"]


@pytest.fixture
def folder_of(tmp_path):
    """Function from a family to a folder with a random classifier of two layers."""

    def make(family):
        write_config(tmp_path / "source", family)
        out = tmp_path / family
        model = random_model(family, "sequence_classification")
        save_model(model, out, source=tmp_path / "source", label_names=LABELS)
        return out

    return make


def load(folder, layers=(), **options):
    return load_classifier(folder, label_names=LABELS, key=KEY, feature_layers=layers, **options)


def naive_features(hidden, mask, centre, is_causal):
    """Of one text, layer by layer, in float64."""
    parts = []
    if is_causal:
        mask = np.arange(len(mask)) == np.flatnonzero(mask)[-1]
    for states, own in zip(hidden, centre, strict=True):
        mean = np.float64(states)[np.asarray(mask)].mean(axis=0)
        part = mean / np.linalg.norm(mean) - own
        parts.append(part / np.linalg.norm(part))
    whole = np.concatenate(parts)
    return whole / np.linalg.norm(whole)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_models_that_end_with_each_layer(folder_of, family):
    folder = folder_of(family)
    ids, mask = ragged_batch()
    model = load(folder, (1, 2))
    model.features.centre[...] = 0.01 * jax.random.normal(KEY, model.features.centre.shape)
    of_layers = [
        load(folder, num_layers=layer, pooling="first").hidden_states(ids, mask) for layer in (1, 2)
    ]
    found = model.pool(ids, mask)
    assert found.shape == (4, 2 * model.config.hidden_size + 1)
    np.testing.assert_array_equal(found[:, -1], jnp.float32(0.2))
    for row in range(4):
        expected = naive_features(
            [states[row] for states in of_layers],
            mask[row],
            model.features.centre[...],
            model.config.causal,
        )
        np.testing.assert_allclose(found[row, :-1], expected, atol=2e-5)
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=-1), 1.04**0.5, atol=1e-5)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("layers", [(1, 2), (0, 2), (0,), (1,)])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "bert"])
def test_a_loop_has_the_features_of_layers_one_by_one(folder_of, family, layers):
    folder = folder_of(family)
    ids, mask = ragged_batch()
    loop = load(folder, layers, loading=Loading(scan_layers=True))
    np.testing.assert_allclose(
        loop.pool(ids, mask), load(folder, layers).pool(ids, mask), atol=1e-5
    )


def test_embeddings_are_layer_zero_and_layers_above_are_dropped(folder_of):
    folder = folder_of("bert")
    model = load(folder, (0, 1))
    assert model.config.num_layers == 1
    ids, mask = ragged_batch()
    embeddings, _ = model.layer_states(ids, mask)
    expected = load(folder, pooling="first").transformer.hidden_below(ids, mask, 0)
    np.testing.assert_array_equal(embeddings, expected)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [(1,), (0, 2)])
def test_what_is_saved_is_read_back_and_transformers_refuses_it(
    folder_of, family, layers, tmp_path
):
    folder = folder_of(family)
    model = load(folder, layers)
    model.features.centre[...] = 0.1 * jax.random.normal(KEY, model.features.centre.shape)
    save_model(model, tmp_path / "out", source=folder, label_names=LABELS)
    again = load(tmp_path / "out")
    assert again.config.feature_layers == layers == read_config(tmp_path / "out").feature_layers
    ids, mask = ragged_batch()
    np.testing.assert_array_equal(run(again, ids, mask), run(model, ids, mask))
    with pytest.raises(ValueError, match="dpjax_features"):
        AutoConfig.from_pretrained(tmp_path / "out")
    # Once more from there, as a run that goes on with it does.
    save_model(again, tmp_path / "twice", source=tmp_path / "out", label_names=LABELS)
    np.testing.assert_array_equal(run(load(tmp_path / "twice"), ids, mask), run(model, ids, mask))
    with pytest.raises(ValueError, match=r"reads features of the layers .* got \[2\]"):
        load(tmp_path / "out", (2,))


def test_a_language_model_is_not_made_of_it(folder_of, tmp_path):
    folder = folder_of("gpt2")
    save_model(load(folder, (1,)), tmp_path / "out", source=folder, label_names=LABELS)
    with pytest.raises(ValueError, match=r"unexpected: .*dpjax_features\.centre"):
        load_causal_lm(tmp_path / "out")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((1, 3), "has 3, which must be at least 0, the embeddings, and at most 2"),
        ((2, 1), "must rise"),
        ((1, 1), "must rise"),
    ],
)
def test_layers_that_do_not_exist_are_refused(folder_of, layers, message):
    with pytest.raises(ValueError, match=message):
        load(folder_of("bert"), layers)


def test_a_damaged_list_of_layers_is_refused(folder_of, tmp_path):
    folder = folder_of("bert")
    save_model(load(folder, (1,)), tmp_path / "out", source=folder, label_names=LABELS)
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dpjax_feature_layers": "1"}))
    with pytest.raises(ValueError, match="dpjax_feature_layers must be a list of layers, got '1'"):
        load(tmp_path / "out")


@pytest.mark.parametrize("kind", ["full", "head", "bias", "lora"])
def test_the_centre_is_never_trained(kind):
    model = random_model("bert", "sequence_classification", feature_layers=(1, 2))
    if kind == "lora":
        add_lora(model, LoraConfig(rank=2), key=KEY)
    paths = Trainable(kind).paths(model)
    assert ("classifier", "kernel") in paths
    assert not any(path[0] == "features" for path in paths)


@pytest.mark.parametrize("layers", [(1, 2), (2,)])
def test_a_model_cut_below_what_is_trained_has_the_same_logits(layers):
    model = random_model("bert", "sequence_classification", feature_layers=layers)
    split = split_trainable(model, Trainable.head())
    lowest = lowest_trained_layer(split)
    assert lowest == 1
    ids, mask = ragged_batch()
    hidden = lower_hidden_states(split, ids, mask, lowest)
    cut = cut_lower_layers(split, lowest).merge()
    np.testing.assert_allclose(run(cut, hidden, mask), run(model, ids, mask), atol=1e-5)


@pytest.fixture(scope="module")
def minilm():
    tokenizer = load_tokenizer(find_minilm())
    encoded = tokenizer(TEXTS, padding=True, return_tensors="np")
    return tokenizer, jnp.asarray(encoded["input_ids"]), jnp.asarray(encoded["attention_mask"] > 0)


def test_the_centre_is_what_random_texts_have_in_common(minilm):
    tokenizer, ids, mask = minilm
    model = load(find_minilm(), (1, 2))
    before = model.pool(ids, mask)
    centre_features(model, tokenizer)
    first = np.asarray(model.features.centre[...])
    centre_features(model, tokenizer)
    np.testing.assert_array_equal(model.features.centre[...], first)
    after = model.pool(ids, mask)

    def likeness(features):
        units = features[:, :-1]
        return np.mean(np.asarray(units @ units.T)[np.triu_indices(len(TEXTS), 1)])

    assert likeness(after) < 0.8 * likeness(before)
    with pytest.raises(ValueError, match="reads no features of layers"):
        centre_features(load(find_minilm(), num_layers=1), tokenizer)


@pytest.mark.parametrize("options", [{"feature_layers": (1,)}, {"num_layers": 1}])
def test_a_head_starts_from_words(minilm, options):
    tokenizer, *_ = minilm
    model = load_classifier(find_minilm(), label_names=LABELS, key=KEY, **options)
    words = [["invoice", "payment"], ["doctor"], ["visit"]]
    start_from_words(model, tokenizer, words)
    encoded = tokenizer([w for each in words for w in each], padding=True, return_tensors="np")
    ids, mask = jnp.asarray(encoded["input_ids"]), jnp.asarray(encoded["attention_mask"] > 0)
    logits = np.asarray(model(ids, mask))
    assert logits.argmax(axis=1).tolist() == [0, 0, 1, 2]
    own = logits[np.arange(4), [0, 0, 1, 2]]
    assert np.mean(own - logits.mean(axis=1)) == pytest.approx(1.0, abs=1e-4)
    features = np.asarray(model.pool(ids, mask))
    means = np.stack([features[:2].mean(0), features[2], features[3]])
    direction = means - means.mean(0)
    direction /= np.linalg.norm(direction)
    kernel = np.asarray(model.classifier.kernel[...]).T
    np.testing.assert_allclose(kernel / np.linalg.norm(kernel), direction, atol=1e-5)
    if "feature_layers" in options:
        # The weight of the constant stands in its place.
        assert model.classifier.bias is None
        np.testing.assert_allclose(kernel[:, -1], 0.0, atol=1e-6)
    else:
        assert not np.any(model.classifier.bias[...])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([["a"], ["b"]], "words for each of the 3 labels"),
        ([["a"], ["b"], []], "words for each of the 3 labels"),
        ([["a"], ["a"], ["a"]], "look the same to the model"),
    ],
)
def test_words_that_tell_no_labels_apart_are_refused(minilm, words, message):
    model = load_classifier(find_minilm(), label_names=LABELS, key=KEY, num_layers=1)
    with pytest.raises(ValueError, match=message):
        start_from_words(model, minilm[0], words)


def test_a_decoder_without_a_bias_starts_from_words(folder_of, minilm):
    model = random_model("gpt2", "sequence_classification", feature_layers=(1,))
    assert model.classifier.bias is None

    class Tokenizer:
        def __call__(self, texts, padding, return_tensors):
            del texts, padding, return_tensors
            return {"input_ids": np.array([[3], [4], [5]]), "attention_mask": np.ones((3, 1))}

    start_from_words(model, Tokenizer(), [["a"], ["b"], ["c"]])
    logits = model(jnp.array([[3], [4], [5]]), jnp.ones((3, 1), bool))
    assert logits.argmax(axis=1).tolist() == [0, 1, 2]
    assert isinstance(model.classifier.kernel, nnx.Param)
