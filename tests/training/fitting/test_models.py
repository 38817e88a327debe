"""`fit` trains models of every style: NNX, Linen, plain pytrees, and losses that are no labels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD
from flax import linen, nnx
from rich.console import Console

import dpjax

NUM = 40
MECHANISM = DPSGD(num_units=NUM, expected_batch_size=20, noise_multiplier=0.5, num_steps=30)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, NUM)
    pixels = rng.normal(size=(NUM, 6, 6, 1)) * 0.1 + labels[:, None, None, None]
    return pixels.astype(np.float32), labels.astype(np.int32)


def cross_entropy(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


class Convolutions(linen.Module):
    @linen.compact
    def __call__(self, pixels):
        hidden = linen.relu(linen.Conv(4, (3, 3))(pixels))
        return linen.Dense(2)(hidden.mean(axis=(0, 1)))


def linen_parts(images):
    model = Convolutions()
    params = model.init(jax.random.key(0), images[0][0])
    return lambda params, record: cross_entropy(model.apply(params, record[0]), record[1]), params


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        self.cell = nnx.GRUCell(6, 8, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, rows):
        carry = jnp.zeros(8)
        for row in rows:
            carry, _ = self.cell(carry, row)
        return self.head(carry)


def nnx_parts(images):
    graphdef, params, rest = nnx.split(Recurrent(nnx.Rngs(0)), nnx.Param, ...)

    def loss(params, record):
        model = nnx.merge(graphdef, params, rest)
        return cross_entropy(model(record[0][:, :, 0]), record[1])

    return loss, params


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Perceptron:
    """A model that is a pytree, as Equinox has them."""

    weights: list[jax.Array]

    def __call__(self, pixels):
        hidden = jax.nn.tanh(self.weights[0] @ pixels.reshape(-1))
        return self.weights[1] @ hidden


def pytree_parts(images):
    first, second = jax.random.split(jax.random.key(0))
    weights = [jax.random.normal(first, (8, 36)) / 6, jax.random.normal(second, (2, 8)) / 3]
    return lambda model, record: cross_entropy(model(record[0]), record[1]), Perceptron(weights)


def diffusion_parts(images):
    """Denoising: noise and time are of the record, derived from what it holds."""

    def loss(params, record):
        pixels, label = record
        key = jax.random.fold_in(jax.random.key(0), label)
        noise, time = jax.random.normal(key, pixels.shape), jax.random.uniform(key)
        noisy = jnp.sqrt(1 - time) * pixels + jnp.sqrt(time) * noise
        predicted = (params["w"] @ noisy.reshape(-1)) + params["b"] * time
        return jnp.mean((predicted - noise.reshape(-1)) ** 2)

    return loss, {"w": jnp.zeros((36, 36)), "b": jnp.zeros(36)}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("parts", [linen_parts, nnx_parts, pytree_parts, diffusion_parts])
def test_the_model_learns(images, parts):
    loss, params = parts(images)
    result = dpjax.fit(
        loss,
        params,
        images,
        mechanism=MECHANISM,
        optimizer=optax.adam(3e-2),
        clip_norm=1.0,
        run_key=dpjax.RunKey.from_seed(0),
        microbatch_size=8,
    ).run(Console(quiet=True))
    assert jax.tree.structure(result.params) == jax.tree.structure(params)
    before, after = result.metrics[0]["loss"], result.metrics[-1]["loss"]
    assert after < 0.9 * before
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), params, result.params)
    assert all(jax.tree.leaves(moved))
