import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from dpjax.models import TransformerConfig, load_classifier, load_tokenizer, read_config
from dpjax.models.net.attention import attend


def test_hidden_states_and_logits_equal_a_naive_encoder(
    model, folder, bert_config, batch, naive_hidden_states
):
    ids, mask = batch
    tensors = load_file(folder / "model.safetensors")
    expected = naive_hidden_states(bert_config, tensors, ids[0])
    np.testing.assert_allclose(model.hidden_states(ids[0], mask[0]), expected, atol=1e-5)
    pooled = np.tanh(
        expected[0] @ tensors["bert.pooler.dense.weight"].T + tensors["bert.pooler.dense.bias"]
    )
    logits = pooled @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    np.testing.assert_allclose(model(ids[0], mask[0]), logits, atol=1e-5)


@pytest.mark.slow
def test_minilm_equals_a_naive_encoder(minilm, naive_hidden_states):
    config = read_config(minilm)
    raw = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "layer_norm_eps": config.norm_eps,
    }
    ids = np.asarray(load_tokenizer(minilm)("my knee still hurts after the operation")["input_ids"])
    model = load_classifier(minilm, label_names=("a", "b"), key=jax.random.key(0), pooling="first")
    hidden = model.hidden_states(jnp.asarray(ids), jnp.ones(len(ids), bool))
    expected = naive_hidden_states(raw, load_file(minilm / "model.safetensors"), ids)
    np.testing.assert_allclose(hidden, expected, atol=1e-5)


@pytest.mark.slow
def test_logits_have_the_same_values_under_any_leading_axes(model, batch):
    ids, mask = batch
    logits = model(ids, mask)
    assert logits.shape == (4, 3)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(model(ids[1], mask[1]), logits[1], atol=1e-5)
    np.testing.assert_allclose(
        model(ids.reshape(2, 2, 12), mask.reshape(2, 2, 12)).reshape(4, 3), logits, atol=1e-5
    )
    np.testing.assert_allclose(jax.vmap(model)(ids, mask), logits, atol=1e-5)


def test_padding_on_the_right_changes_nothing(model, batch):
    ids, mask = batch
    np.testing.assert_allclose(
        model.hidden_states(ids[1, :7], mask[1, :7]),
        model.hidden_states(ids[1], mask[1])[:7],
        atol=1e-5,
    )
    other_padding = np.where(mask, ids, 17)
    starts_with_token = mask[:, 0]
    np.testing.assert_allclose(
        model(other_padding, mask)[starts_with_token], model(ids, mask)[starts_with_token]
    )


def test_example_of_padding_only_has_finite_values_and_gradients(shallow_model):
    graphdef, parameters = nnx.split(shallow_model)
    ids, mask = jnp.zeros(6, jnp.int32), jnp.zeros(6, bool)
    gradient = jax.jit(jax.grad(lambda p: nnx.merge(graphdef, p)(ids, mask).sum()))
    gradients = gradient(parameters)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


def test_model_needs_no_rank_promotion(model, batch):
    ids, mask = batch
    with jax.numpy_rank_promotion("raise"):
        assert model(ids, mask).shape == (4, 3)


def test_too_long_sequence_is_refused(model):
    with pytest.raises(ValueError, match="21 tokens is longer than the 20 positions"):
        model(jnp.ones((2, 21), jnp.int32), jnp.ones((2, 21), bool))


def test_attention_ignores_masked_keys_only():
    query, key, value = jax.random.normal(jax.random.key(0), (3, 5, 2, 4))
    mask = jnp.asarray([True, False, True, True, False])
    scores = np.einsum("qhd,khd->hqk", query, key[mask]) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = np.einsum("hqk,khd->qhd", weights, value[mask])
    np.testing.assert_allclose(
        attend(query, key, value, mask[None, None], scale=0.5), expected, atol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 2}, r"num_kv_heads \(2\) does not divide num_heads \(3\)"),
        ({"num_layers": 0}, "num_layers must be positive and at most 1000, got 0"),
        ({"norm_eps": -1e-6}, "norm_eps must be at least 0 and below 1"),
    ],
)
def test_impossible_sizes_are_refused(folder, change, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{**vars(read_config(folder)), **change})
