"""One step of the loop against a NumPy computation with the same draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD
from flax import nnx

from dpjax.finetuning.config import Training
from dpjax.finetuning.tasks.classification import LabelledBatch, SequenceClassification
from dpjax.finetuning.training.optimizer import make_optimizer
from dpjax.finetuning.training.step import (
    empty_accumulator,
    make_non_private_steps,
    make_private_steps,
)
from dpjax.privatize import RunKey, gaussian_noise

CLIP_NORM, BATCH, SIGMA, RATE = 0.2, 6, 1.3, 0.5


class Bag(nnx.Module):
    """A bag-of-words classifier with the call of a SequenceClassifier."""

    def __init__(self):
        self.table = nnx.Param(jax.random.normal(jax.random.key(0), (9, 2)))
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, input_ids, attention_mask):
        rows = self.table[...][input_ids] * attention_mask[..., None]
        return self.scale[...] * rows.sum(axis=-2)


@pytest.fixture
def parts():
    graphdef, trainable, frozen = nnx.split(Bag(), lambda path, _: path[0] == "table", ...)
    return graphdef, nnx.to_pure_dict(trainable), nnx.to_pure_dict(frozen)


def loss_of(parts):
    return SequenceClassification().loss_fn(parts[0])


def make_batch(size, seed):
    rng = np.random.default_rng(seed)
    return LabelledBatch(
        rng.integers(0, 9, (size, 4)).astype(np.int32),
        rng.random((size, 4)) < 0.8,
        rng.integers(0, 2, size).astype(np.int32),
    )


def single_gradient(table, batch, i):
    counts = np.zeros(9)
    np.add.at(counts, batch.input_ids[i], batch.attention_mask[i].astype(float))
    logits = counts @ table
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    probability[batch.labels[i]] -= 1
    return np.outer(counts, probability)


def run_step(steps, parts, batches, noise_keys, optimizer):
    _, trainable, frozen = parts
    total = empty_accumulator(trainable)
    for batch, mask in batches:
        total = steps.accumulate(trainable, frozen, total, batch, mask)
    before = np.asarray(trainable["table"], np.float64)
    trainable = jax.tree.map(jnp.array, trainable)
    after, _ = steps.apply(trainable, optimizer.init(trainable), total, noise_keys)
    return before, np.asarray(after["table"], np.float64), total


def test_a_private_step_is_the_clipped_sum_plus_noise_once_over_the_expected_batch(parts):
    optimizer = optax.sgd(RATE)
    steps = make_private_steps(loss_of(parts), optimizer, DPSGD(50, BATCH, SIGMA, 3), CLIP_NORM)
    keys = RunKey.from_seed(1).noise_keys(0)
    batches = [
        (make_batch(4, 1), np.array([1, 1, 1, 1], bool)),
        (make_batch(4, 2), np.array([1, 0, 1, 0], bool)),
    ]
    before, after, total = run_step(steps, parts, batches, keys, optimizer)
    expected = np.zeros((9, 2))
    for batch, mask in batches:
        for i in np.flatnonzero(mask):
            gradient = single_gradient(before, batch, i)
            expected += gradient * min(1.0, CLIP_NORM / np.linalg.norm(gradient))
    noise = gaussian_noise(keys, {"table": jnp.zeros((9, 2))}, SIGMA * CLIP_NORM)["table"]
    want = before - RATE * (expected + np.asarray(noise)) / BATCH
    np.testing.assert_allclose(after, want, rtol=1e-5, atol=1e-7)
    assert int(total.num_records) == 6 and 0 < int(total.num_clipped) <= 6


@pytest.mark.usefixtures("full_optimisation")
def test_sums_of_microbatches_are_added_in_place(parts):
    """However many microbatches a step has, one accumulator is held."""
    steps = make_private_steps(
        loss_of(parts), optax.sgd(RATE), DPSGD(50, BATCH, SIGMA, 3), CLIP_NORM
    )
    _, trainable, frozen = parts
    total = empty_accumulator(trainable)
    arguments = (trainable, frozen, total, make_batch(4, 1), np.ones(4, bool))
    memory = steps.accumulate.lower(*arguments).compile().memory_analysis()
    assert memory.alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(total))


def test_an_empty_poisson_batch_is_a_step_of_pure_noise(parts):
    optimizer = optax.sgd(RATE)
    steps = make_private_steps(loss_of(parts), optimizer, DPSGD(50, BATCH, SIGMA, 3), CLIP_NORM)
    keys = RunKey.from_seed(2).noise_keys(0)
    before, after, total = run_step(steps, parts, [], keys, optimizer)
    noise = gaussian_noise(keys, {"table": jnp.zeros((9, 2))}, SIGMA * CLIP_NORM)["table"]
    np.testing.assert_allclose(after - before, -RATE * np.asarray(noise) / BATCH, atol=1e-7)
    assert int(total.num_records) == 0


def test_a_non_private_step_neither_clips_nor_adds_noise(parts):
    optimizer = optax.sgd(RATE)
    steps = make_non_private_steps(loss_of(parts), optimizer, BATCH)
    batch, mask = make_batch(5, 3), np.array([1, 1, 0, 1, 1], bool)
    keys = RunKey.from_seed(3).noise_keys(0)
    before, after, _ = run_step(steps, parts, [(batch, mask)], keys, optimizer)
    total = sum(single_gradient(before, batch, i) for i in np.flatnonzero(mask))
    np.testing.assert_allclose(after, before - RATE * total / BATCH, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warmup_fraction", "num_steps"), [(0.0, 20), (0.25, 20), (0.5, 1)])
def test_no_step_is_wasted_on_a_zero_learning_rate(schedule, warmup_fraction, num_steps):
    training = Training(learning_rate=0.1, schedule=schedule, warmup_fraction=warmup_fraction)
    optimizer = make_optimizer(training, num_steps)
    params = jnp.zeros(3)
    state, sizes = optimizer.init(params), []
    for _ in range(num_steps):
        update, state = optimizer.update(jnp.ones(3), state, params)
        sizes.append(float(-update[0]))
    assert min(sizes) > 0
    assert max(sizes) == pytest.approx(0.1, rel=1e-3)
    if warmup_fraction == 0.25:
        assert np.all(np.diff(sizes[:6]) > 0)
    if schedule != "constant" and num_steps > 1:
        assert sizes[-1] < 0.2 * max(sizes)


def test_the_head_may_have_a_learning_rate_of_its_own():
    params = {"classifier": {"kernel": jnp.zeros(2)}, "encoder": {"layers": {0: jnp.zeros(3)}}}
    plain = Training(learning_rate=0.01)
    both = dataclasses.replace(plain, head_learning_rate=0.03)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates = []
    for training in (plain, both):
        optimizer = make_optimizer(training, 10)
        updates.append(optimizer.update(gradients, optimizer.init(params), params)[0])
    one, other = updates
    np.testing.assert_array_equal(other["encoder"]["layers"][0], one["encoder"]["layers"][0])
    np.testing.assert_allclose(
        other["classifier"]["kernel"], 3.0 * one["classifier"]["kernel"], rtol=1e-6
    )
