"""Dropout in front of the adapters: what is dropped, when, and by which key."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dpjax.models import LoraConfig, LoraLinear, Trainable, add_lora, drop_inputs, split_trainable
from dpjax.privatize import clipped_grad
from tests.support.tiny_checkpoints import random_model

RATE = 0.4


def adapted(family="gpt2", task="causal_lm", dropout=RATE, **changes):
    """A model whose adapters do something."""
    model = random_model(family, task, **changes)
    config = LoraConfig(rank=3, alpha=6.0, target_modules="all-linear", dropout=dropout)
    add_lora(model, config, key=jax.random.key(0))
    for index, layer in enumerate(layers_of(model)):
        layer.lora_b[...] = 0.3 * jax.random.normal(jax.random.key(index), layer.lora_b.shape)
    return model


def layers_of(model):
    return [node for _, node in nnx.iter_graph(model) if isinstance(node, LoraLinear)]


def texts():
    ids = jax.random.randint(jax.random.key(3), (3, 8), 3, 60)
    return ids, jnp.ones((3, 8), bool)


@pytest.mark.slow
def test_a_model_without_a_key_drops_nothing():
    ids, mask = texts()
    with_dropout, without = adapted(), adapted(dropout=0.0)
    np.testing.assert_array_equal(with_dropout(ids, mask), without(ids, mask))


def test_an_adapter_reads_what_is_left_scaled_up_and_the_base_everything():
    model = adapted()
    drop_inputs(model, key=jax.random.key(1))
    layer = model.transformer.layers[0].mlp.up_proj
    x = jnp.full((200, 32), 2.0)
    a, b = layer.lora_a[...], layer.lora_b[...]
    dropped = layer._dropped(x)
    share = float(jnp.mean(dropped == 0))
    assert abs(share - RATE) < 5 * np.sqrt(RATE * (1 - RATE) / x.size)
    np.testing.assert_allclose(dropped[dropped != 0], 2.0 / (1 - RATE), rtol=1e-6)
    expected = layer.base(x) + 2.0 * dropped @ a @ b
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_every_adapter_of_every_layer_draws_of_its_own(scan_layers):
    model = adapted(scan_layers=scan_layers)
    drop_inputs(model, key=jax.random.key(1))
    keys = [np.asarray(layer.dropout_key[...]).reshape(-1, 2) for layer in layers_of(model)]
    keys = np.concatenate(keys)
    assert len(keys) == len(np.unique(keys, axis=0)) == 2 * 4


@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_key_decides_what_is_dropped(scan_layers):
    model = adapted(scan_layers=scan_layers, rematerialise=True)
    graphdef, state = nnx.split(model)

    @jax.jit
    def logits(key):
        merged = nnx.merge(graphdef, state)
        drop_inputs(merged, key=key)
        return merged(*texts())

    first, again, other = (logits(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - other).max() > 1e-2
    assert jnp.abs(first - model(*texts())).max() > 1e-2
    assert all(layer.dropout_key is None for layer in layers_of(model))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one_backward", "two_backwards"])
def test_clipped_gradients_are_those_of_a_loop_with_the_same_keys(strategy):
    graphdef, trained, frozen = split_trainable(
        adapted(scan_layers=True, rematerialise=True), Trainable.lora()
    )

    def loss(trained, example):
        ids, mask, key = example
        model = nnx.merge(graphdef, trained, frozen)
        drop_inputs(model, key=jax.random.wrap_key_data(key))
        losses = optax.softmax_cross_entropy_with_integer_labels(model(ids, mask)[:-1], ids[1:])
        return jnp.sum(losses)

    keys = jax.random.key_data(jax.random.split(jax.random.key(9), 3))
    batch = (*texts(), keys)
    one = jax.jit(jax.grad(loss))
    gradients = [one(trained, jax.tree.map(lambda x, row=row: x[row], batch)) for row in range(3)]
    norms = [optax.tree.norm(gradient) for gradient in gradients]
    clipped = jax.jit(clipped_grad(loss, clip_norm=0.5, strategy=strategy))(trained, batch)
    np.testing.assert_allclose(clipped.norms, norms, rtol=2e-5)
    total = jax.tree.map(
        lambda *leaves: sum(
            leaf * min(1.0, 0.5 / norm) for leaf, norm in zip(leaves, norms, strict=True)
        ),
        *gradients,
    )
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, clipped.grads, total))
    assert difference <= 2e-5 * optax.tree.norm(total)
    others = jax.jit(clipped_grad(loss, clip_norm=0.5, strategy=strategy))(
        trained, (*texts(), keys[::-1])
    )
    assert jnp.abs(others.norms - clipped.norms)[0] > 1e-3 * clipped.norms[0]


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_an_impossible_rate_is_refused(dropout):
    with pytest.raises(ValueError, match="dropout must be at least 0 and below 1"):
        LoraConfig(rank=2, alpha=1.0, target_modules="all-linear", dropout=dropout)


def test_a_model_without_adapters_has_nothing_to_drop():
    with pytest.raises(ValueError, match="no adapters"):
        drop_inputs(random_model("gpt2", "causal_lm"), key=jax.random.key(0))
