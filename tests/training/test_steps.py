"""One step of the loop against a NumPy computation with the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD
from flax import nnx

from dpjax.finetuning.tasks.classification import LabelledBatch, SequenceClassification
from dpjax.privatize import FlatClipping, PoissonSampler, RunKey, gaussian_noise
from dpjax.training import NonPrivateTraining, PrivateTraining

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


NUM_RECORDS = 50


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    return LabelledBatch(
        rng.integers(0, 9, (NUM_RECORDS, 4)).astype(np.int32),
        rng.random((NUM_RECORDS, 4)) < 0.8,
        rng.integers(0, 2, NUM_RECORDS).astype(np.int32),
    )


def single_gradient(table, batch, i):
    counts = np.zeros(9)
    np.add.at(counts, batch.input_ids[i], batch.attention_mask[i].astype(float))
    logits = counts @ table
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    probability[batch.labels[i]] -= 1
    return np.outer(counts, probability)


def run_step(steps, parts, data, step, optimizer):
    """The table before and after a step, its total, and which records were drawn."""
    _, trainable, frozen = parts
    (total, trainable), drawn = steps.begin(trainable, step), []
    for rows, mask in steps.batches(step, microbatch_size=4, order=lambda rows: rows):
        batch = LabelledBatch(*(column[rows] for column in data[:3]))
        total, trainable = steps.add(total, trainable, batch, mask, frozen)
        drawn += rows[mask].tolist()
    before = np.asarray(trainable["table"], np.float64)
    trainable = jax.tree.map(jnp.array, trainable)
    after, _ = steps.update(total, step, trainable, optimizer.init(trainable))
    return before, np.asarray(after["table"], np.float64), total, drawn


def private_steps(parts, optimizer, seed, expected_batch_size=BATCH):
    mechanism = DPSGD(
        num_units=NUM_RECORDS,
        expected_batch_size=expected_batch_size,
        noise_multiplier=SIGMA,
        num_steps=9,
    )
    rule = FlatClipping(CLIP_NORM)
    return PrivateTraining(loss_of(parts), optimizer, mechanism, rule, RunKey.from_seed(seed))


def noise_of(seed, step):
    keys = RunKey.from_seed(seed).noise_keys(step)
    return gaussian_noise(keys, {"table": jnp.zeros((9, 2))}, SIGMA * CLIP_NORM)["table"]


@pytest.mark.parametrize("step", [0, 4])
def test_a_private_step_is_the_clipped_sum_plus_noise_once_over_the_expected_batch(
    parts, data, step
):
    optimizer = optax.sgd(RATE)
    before, after, total, drawn = run_step(
        private_steps(parts, optimizer, 1), parts, data, step, optimizer
    )
    expected = np.zeros((9, 2))
    for i in drawn:
        gradient = single_gradient(before, data, i)
        expected += gradient * min(1.0, CLIP_NORM / np.linalg.norm(gradient))
    want = before - RATE * (expected + np.asarray(noise_of(1, step))) / BATCH
    np.testing.assert_allclose(after, want, rtol=1e-5, atol=1e-7)
    assert int(total.num_records) == len(drawn) > 0
    assert 0 < int(total.num_clipped) <= len(drawn)


@pytest.mark.usefixtures("full_optimisation")
def test_sums_of_microbatches_are_added_in_place(parts, data):
    """However many microbatches a step has, one total is held."""
    steps = private_steps(parts, optax.sgd(RATE), 1)
    _, trainable, frozen = parts
    total, _ = steps.begin(trainable, 0)
    nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(total))
    batch = LabelledBatch(*(column[:4] for column in data[:3]))
    compiled = steps._private._compiled_add
    lowered = compiled.lower(total, trainable, batch, np.ones(4, bool), frozen)
    assert lowered.compile().memory_analysis().alias_size_in_bytes == nbytes


def test_an_empty_poisson_batch_is_a_step_of_pure_noise(parts, data):
    optimizer = optax.sgd(RATE)
    steps = private_steps(parts, optimizer, 2, expected_batch_size=0.25)
    empty = next(
        step
        for step in range(9)
        if not list(steps.batches(step, microbatch_size=4, order=lambda rows: rows))
    )
    before, after, total, _ = run_step(steps, parts, data, empty, optimizer)
    np.testing.assert_allclose(
        after - before, -RATE * np.asarray(noise_of(2, empty)) / 0.25, rtol=1e-6, atol=1e-7
    )
    assert int(total.num_records) == 0


def test_a_step_is_released_once(parts, data):
    optimizer = optax.sgd(RATE)
    steps = private_steps(parts, optimizer, 1)
    run_step(steps, parts, data, 0, optimizer)
    with pytest.raises(ValueError, match="step 0 has been released already"):
        run_step(steps, parts, data, 0, optimizer)


def test_a_non_private_step_neither_clips_nor_adds_noise(parts, data):
    optimizer = optax.sgd(RATE)
    sampler = PoissonSampler(NUM_RECORDS, BATCH / NUM_RECORDS, RunKey.from_seed(3))
    steps = NonPrivateTraining(loss_of(parts), optimizer, sampler, BATCH)
    before, after, _, drawn = run_step(steps, parts, data, 0, optimizer)
    total = sum(single_gradient(before, data, i) for i in drawn)
    np.testing.assert_allclose(after, before - RATE * total / BATCH, rtol=1e-5, atol=1e-6)


def test_both_draw_the_same_records(parts):
    private = private_steps(parts, optax.sgd(RATE), 7)
    sampler = PoissonSampler(NUM_RECORDS, BATCH / NUM_RECORDS, RunKey.from_seed(7))
    plain = NonPrivateTraining(loss_of(parts), optax.sgd(RATE), sampler, BATCH)
    for step in range(3):
        one, other = (
            [rows[mask] for rows, mask in steps.batches(step, microbatch_size=4, order=np.sort)]
            for steps in (private, plain)
        )
        np.testing.assert_array_equal(np.concatenate(one), np.concatenate(other))
