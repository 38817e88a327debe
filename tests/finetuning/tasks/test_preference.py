"""The loss of pairs: its value, its gradient clipped as one, and the reference that stays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.finetuning.tasks.preference import PreferenceTuning
from dpjax.models import base_model
from dpjax.privatize import clipped_grad
from tests.support.pairs import adapted, naive_log_prob, padded, random_pairs

PAIRS = random_pairs()
TASK = PreferenceTuning(vocab_chunk=None, beta=0.3)


def record(pairs, row):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[row]), TASK.batch(pairs))


def naive_loss(model, pair, beta, smoothing=0.0):
    """Equation 7 of the paper, one logarithm after the other."""
    ratios = []
    for text in (
        (pair.input_ids, pair.attention_mask, pair.loss_mask),
        (pair.rejected_ids, pair.rejected_mask, pair.rejected_loss_mask),
    ):
        ratios.append(naive_log_prob(model, *text) - naive_log_prob(base_model(model), *text))
    margin = beta * (ratios[0] - ratios[1])
    right = jax.nn.sigmoid(margin)
    return -(1 - smoothing) * jnp.log(right) - smoothing * jnp.log(1 - right), margin


@pytest.mark.parametrize("vocab_chunk", [None, 7])
def test_the_loss_is_that_of_the_paper(vocab_chunk):
    split = adapted()
    task = dataclasses.replace(TASK, vocab_chunk=vocab_chunk, label_smoothing=0.2)
    loss = jax.jit(task.loss_fn(split.graphdef))
    found = [loss(split.trainable, record(PAIRS, row), split.frozen) for row in range(5)]
    naive = jax.jit(
        lambda trainable, pair: naive_loss(
            split.replace(trainable=trainable).merge(), pair, 0.3, 0.2
        )
    )
    expected = [naive(split.trainable, record(PAIRS, row)) for row in range(5)]
    np.testing.assert_allclose(found, [each[0] for each in expected], rtol=1e-5)
    losses, margins = task.measure_fn(split.graphdef)(
        split.trainable, split.frozen, TASK.batch(PAIRS)
    )
    np.testing.assert_allclose(losses, [each[0] for each in expected], rtol=1e-5)
    np.testing.assert_allclose(margins, [each[1] for each in expected], rtol=1e-4, atol=1e-5)
    evaluation = task.evaluation(np.asarray(losses), np.asarray(margins), PAIRS)
    assert evaluation.accuracy == np.mean([each[1] > 0 for each in expected])
    assert evaluation.reward_margin == pytest.approx(float(np.mean(margins)), rel=1e-5)


def test_fresh_adapters_leave_the_loss_at_log_2():
    split = adapted()
    fresh = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if "lora_b" in str(path) else leaf, split.trainable
    )
    loss = jax.jit(TASK.loss_fn(split.graphdef))(fresh, record(PAIRS, 0), split.frozen)
    assert loss == pytest.approx(np.log(2), rel=1e-6)


def gradients_one_by_one(split, pairs):
    """The gradients by `jax.grad` of the formula, and their norms."""

    @jax.jit
    @jax.grad
    def gradient_of(trainable, pair):
        return naive_loss(split.replace(trainable=trainable).merge(), pair, 0.3)[0]

    gradients = [gradient_of(split.trainable, record(pairs, row)) for row in range(len(pairs))]
    squares = [sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(g)) for g in gradients]
    return gradients, np.sqrt(squares)


MODELS = {
    "gpt2": {},
    "in a loop": {"scan_layers": True},
    "llama with a head": {"family": "llama", "target_modules": ("q_proj", "down_proj", "lm_head")},
    "DoRA": {"use_dora": True},
    "token rows": {"trainable_token_indices": (5, 9)},
}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_the_gradient_of_a_pair_is_clipped_as_one(model):
    split = adapted(**model)
    gradients, norms = gradients_one_by_one(split, PAIRS)
    clip_norm = float(np.median(norms))
    factors = np.minimum(1.0, clip_norm / norms)
    expected = jax.tree.map(lambda *rows: np.tensordot(factors, np.stack(rows), 1), *gradients)
    loss = dataclasses.replace(TASK, vocab_chunk=16).loss_fn(split.graphdef)
    batch = jax.tree.map(jnp.asarray, TASK.batch(PAIRS))
    # Auto takes one of these.
    for strategy in ("materialize", "one_backward", "two_backwards"):
        clipped = clipped_grad(
            lambda params, example: loss(params, example, split.frozen),
            clip_norm=clip_norm,
            strategy=strategy,
        )
        found = jax.jit(clipped)(split.trainable, batch)
        # The formula takes the logarithm of a rounded sigmoid.
        np.testing.assert_allclose(found.norms, norms, rtol=1e-3, err_msg=strategy)
        assert 0 < found.num_clipped < len(PAIRS)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * clip_norm),
            found.grads,
            expected,
        )


def test_padding_changes_nothing():
    split = adapted()
    loss = jax.jit(jax.value_and_grad(TASK.loss_fn(split.graphdef)))
    for row in range(2):
        plain, wide = (
            loss(split.trainable, record(pairs, row), split.frozen)
            for pairs in (PAIRS, padded(PAIRS, 5))
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, wide
        )


def test_a_pair_whose_texts_are_the_same_moves_nothing():
    split = adapted()
    same = dataclasses.replace(
        PAIRS,
        rejected_ids=PAIRS.input_ids,
        rejected_mask=PAIRS.attention_mask,
        rejected_loss_mask=PAIRS.loss_mask,
    )
    gradient = jax.jit(jax.grad(TASK.loss_fn(split.graphdef)))(
        split.trainable, record(same, 0), split.frozen
    )
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-5


def test_the_reference_drops_nothing():
    split = adapted(dropout=0.5)
    loss = jax.jit(TASK.loss_fn(split.graphdef))
    keys = jax.random.split(jax.random.key(0), 2)
    dropped = [
        loss(
            split.trainable,
            record(PAIRS, 0)._replace(dropout_keys=jax.random.key_data(key)),
            split.frozen,
        )
        for key in keys
    ]
    assert dropped[0] != dropped[1]
    # Without what adapters add, nothing is left to drop.
    fresh = jax.tree.map(jnp.zeros_like, split.trainable)
    key = jax.random.key_data(keys[0])
    start = loss(fresh, record(PAIRS, 0)._replace(dropout_keys=key), split.frozen)
    assert start == pytest.approx(np.log(2), rel=1e-6)


def test_there_is_no_loss_while_the_chunk_is_open():
    with pytest.raises(ValueError, match=r"compute\.vocab_chunk=auto must be resolved"):
        PreferenceTuning().loss_fn(adapted().graphdef)
