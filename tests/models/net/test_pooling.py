"""The appended averaging layer: what it computes, when it is added, parity with transformers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.models import (
    LoraConfig,
    Trainable,
    add_lora,
    load_classifier,
    save_model,
    split_trainable,
)

LABELS = ("no", "yes")


def load(folder, pooling, **options):
    key = jax.random.key(0)
    return load_classifier(folder, label_names=LABELS, key=key, pooling=pooling, **options)


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


def test_the_pooled_text_is_the_normalised_mean_of_its_tokens(folder, batch):
    ids, mask = batch
    hidden = np.asarray(load(folder, "first").hidden_states(ids, mask), np.float64)
    weights = np.asarray(mask, float)[..., None]
    mean = (hidden * weights).sum(-2) / weights.sum(-2)
    pooled = load(folder, "mean").pool(ids, mask)
    np.testing.assert_allclose(pooled, np.tanh(0.1 * normalised(mean)), atol=1e-3)


def test_only_the_first_token_of_the_last_layer_is_needed(folder, batch):
    model = load(folder, "first")
    first = model.hidden_states(*batch)[..., 0, :]
    np.testing.assert_allclose(model.pool(*batch), jnp.tanh(model.pooler(first)), atol=1e-6)


@pytest.mark.parametrize(
    ("modes", "pooling", "appended"),
    [
        (None, "auto", False),
        ({"pooling_mode_mean_tokens": True}, "auto", True),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "auto", False),
        ({"pooling_mode_mean_tokens": True}, "first", False),
        (None, "mean", True),
    ],
)
def test_when_the_layer_is_appended(folder, modes, pooling, appended):
    if modes is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    layers = load(folder, "first").config.num_layers
    assert load(folder, pooling).config.num_layers == layers + appended


def test_an_unknown_pooling_is_refused(folder):
    with pytest.raises(ValueError, match="auto, first or mean, got 'max'"):
        load(folder, "max")


def test_saved_and_loaded_again_it_is_the_same_and_not_appended_twice(folder, batch, tmp_path):
    model = load(folder, "mean")
    save_model(model, tmp_path / "out", source=folder, label_names=LABELS)
    again = load(tmp_path / "out", "auto")
    assert again.config == model.config
    assert again.config.averaging_layer
    np.testing.assert_array_equal(again(*batch), model(*batch))


def test_the_layer_is_appended_to_those_that_are_kept(folder, batch, tmp_path):
    model = load(folder, "mean", num_layers=1)
    assert model.config.num_layers == 2
    save_model(model, tmp_path / "out", source=folder, label_names=LABELS)
    again = load(tmp_path / "out", "auto")
    np.testing.assert_array_equal(again(*batch), model(*batch))
    with pytest.raises(ValueError, match="num_layers=1: the last layer of this checkpoint"):
        load(tmp_path / "out", "auto", num_layers=1)


def test_transformers_gives_equal_logits(folder, batch, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification

    model = load(folder, "mean")
    save_model(model, tmp_path / "out", source=folder, label_names=LABELS)
    original = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    ids, mask = (torch.tensor(np.asarray(part)).long() for part in batch)
    # By itself transformers counts padding on the left as positions.
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        outputs = original(input_ids=ids, attention_mask=mask, position_ids=positions)
    logits = outputs.logits.numpy()
    np.testing.assert_allclose(model(*batch), logits, atol=1e-5)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_appended_layer_is_never_trained(folder, tuning):
    model = load(folder, "mean")
    if tuning == "lora":
        add_lora(
            model, LoraConfig(rank=2, alpha=4, target_modules="all-linear"), key=jax.random.key(1)
        )
    _, trainable, frozen = split_trainable(model, Trainable(tuning))
    last = model.config.num_layers - 1
    assert sorted(trainable["transformer"]["layers"]) == list(range(last))
    assert "pooler" not in trainable
    assert last in frozen["transformer"]["layers"]
    assert "pooler" in frozen
    assert "classifier" in trainable
