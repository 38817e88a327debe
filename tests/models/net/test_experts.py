"""Mixtures of experts beside a loop over tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dpjax.models import LoraConfig, add_lora, parse_config
from dpjax.models.net.experts import Experts
from dpjax.privatize import clipped_grad
from tests.support.tiny_checkpoints import random_model, raw_config

CONFIG = parse_config(raw_config("mixtral"))


def naive(experts, x):
    """One token after the other, the chosen experts alone."""
    rows = []
    for token in np.asarray(x):
        scores = token @ np.asarray(experts.router.kernel[...])
        shares = np.exp(scores) / np.exp(scores).sum()
        chosen = np.argsort(-shares)[: experts.num_chosen]
        total = shares[chosen].sum() if experts.sums_to_one else 1.0
        row = 0
        for number in chosen:
            expert = experts.experts[int(number)]
            gate, up, down = (
                np.asarray(layer.kernel[...])
                for layer in (expert.gate_proj, expert.up_proj, expert.down_proj)
            )
            inner = token @ gate
            row = row + shares[number] / total * (
                (inner / (1 + np.exp(-inner)) * (token @ up)) @ down
            )
        rows.append(row)
    return np.stack(rows)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("num_chosen", [1, 2, 3])
def test_equals_a_loop_over_tokens(num_chosen, normalised):
    config = dataclasses.replace(
        CONFIG, experts_per_token=num_chosen, normalised_experts=normalised
    )
    experts = Experts(config, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (7, config.hidden_size))
    np.testing.assert_allclose(experts(x), naive(experts, x), atol=1e-5)
    weights = np.asarray(experts.weights(x))
    assert ((weights > 0).sum(axis=-1) == num_chosen).all()


def test_equal_experts_are_chosen_once():
    """Of ties as many are chosen as of others: the first ones."""
    experts = Experts(CONFIG, rngs=nnx.Rngs(0))
    experts.router.kernel[...] = jnp.zeros_like(experts.router.kernel[...])
    weights = experts.weights(jnp.ones((2, CONFIG.hidden_size)))
    np.testing.assert_allclose(weights, [[0.5, 0.5, 0.0]] * 2)


def test_a_token_depends_on_no_other():
    experts = Experts(CONFIG, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (6, CONFIG.hidden_size))
    np.testing.assert_allclose(experts(x)[:2], experts(x[:2]), atol=1e-6)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("strategy", ["materialize", "one_backward", "two_backwards"])
def test_clipped_gradients_equal_a_loop(strategy, normalised):
    """Each record's own gradient is clipped, whatever experts the others and padding choose."""
    config = dataclasses.replace(CONFIG, normalised_experts=normalised)
    graphdef, state = nnx.split(Experts(config, rngs=nnx.Rngs(0)))
    parameters = nnx.to_pure_dict(state)
    x = jax.random.normal(jax.random.key(1), (3, 5, config.hidden_size))
    mask = jnp.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]], bool)

    def loss(parameters, example):
        tokens, mask = example
        return jnp.sum(
            jnp.where(mask[:, None], jnp.sin(nnx.merge(graphdef, parameters)(tokens)), 0)
        )

    clip = clipped_grad(loss, clip_norm=0.5, strategy=strategy)
    found = jax.jit(lambda parameters, batch: clip(parameters, batch).grads)(parameters, (x, mask))
    total = jax.tree.map(jnp.zeros_like, parameters)
    for example in zip(x, mask, strict=True):
        gradient = jax.jit(jax.grad(loss))(parameters, example)
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
        factor = jnp.minimum(1.0, 0.5 / norm)
        total = jax.tree.map(lambda t, g, c=factor: t + c * g, total, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, total)


@pytest.mark.parametrize("num_chosen", [0, 4])
def test_as_many_are_chosen_as_there_are(num_chosen):
    with pytest.raises(ValueError, match="between 1 and num_experts = 3, got"):
        dataclasses.replace(CONFIG, experts_per_token=num_chosen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ("w1",)}, "trained by tuning='full'"),
        ({"target_modules": ("q_proj", "gate")}, "trained by tuning='full'"),
        ({"modules_to_save": ("gate",)}, "has experts or their router in it"),
        ({"modules_to_save": ("block_sparse_moe",)}, "has experts or their router in it"),
    ],
)
def test_experts_get_no_adapters(options, message):
    """transformers holds them in arrays that are no layers: peft could not load the adapters."""
    with pytest.raises(ValueError, match=message):
        add_lora(random_model("mixtral", "causal_lm"), LoraConfig(rank=2, **options), key=KEY)


def test_all_linear_layers_are_those_of_attention():
    model = random_model("mixtral", "causal_lm")
    add_lora(model, LoraConfig(rank=2, target_modules="all-linear"), key=KEY)
    paths = {
        jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(nnx.state(model))
    }
    assert all("self_attn" in path for path in paths if "lora" in path)


KEY = jax.random.key(0)
