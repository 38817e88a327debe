"""A table that a loop contracts a slice at a time, and that is looked up as well."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from dpjax.privatize.structured.costs.methods import Budget
from dpjax.privatize.structured.gradient import gradient_program
from dpjax.privatize.structured.norms import norm, sliced_table
from tests.support.properties import compiled
from tests.support.slow import mark_slow

FAST = ("one_backward", "two_backwards")
EXAMPLES, LENGTH, COUNT, CHUNK, REST, SIZE = 4, 7, 6, 10, 3, 5
VOCAB = COUNT * CHUNK + REST
LOSSES = {}


def inputs():
    rng = np.random.default_rng(2)
    params = {
        "table": jnp.asarray(rng.normal(size=(VOCAB, SIZE)), jnp.float32),
        "w": jnp.asarray(rng.normal(size=(SIZE, SIZE)), jnp.float32),
    }
    # Repeated rows, rows of the first slice, of the last, and of the rest.
    ids = rng.integers(0, VOCAB, (EXAMPLES, LENGTH))
    ids[0, :3], ids[1, :2], ids[2] = 4, (VOCAB - 1, CHUNK * COUNT), 0
    return params, jnp.asarray(ids, jnp.int32)


def register(make):
    LOSSES[make.__name__] = make
    return make


def trunk(p, ids):
    return jnp.tanh(p["table"][ids] @ p["w"])


def head(h, table, remat=jax.checkpoint):
    """Half the sum of squares of all logits, a slice of the vocabulary at a time."""

    def square(rows):
        return 0.5 * jnp.sum((h @ rows.T + 1) ** 2)

    sliced = table[: COUNT * CHUNK].reshape(COUNT, CHUNK, -1)
    step = remat(lambda total, rows: (total + square(rows), None))
    return jax.lax.scan(step, 0.0, sliced)[0] + square(table[COUNT * CHUNK :])


@register
def tied(p, ids):
    return head(trunk(p, ids), p["table"])


@register
def without_rematerialisation(p, ids):
    return head(trunk(p, ids), p["table"], lambda step: step)


@register
def rematerialised_lookup(p, ids):
    return head(jax.checkpoint(trunk)(p, ids), p["table"])


@register
def turned_table(p, ids):
    """Kept as the kernel of a linear layer, `(SIZE, VOCAB)`."""
    return tied(p | {"table": p["table"].T}, ids)


@register
def one_unit(p, ids):
    unit = {"examples": jnp.stack([ids, ids[::-1]]), "mask": jnp.ones(2, bool)}
    return dpjax.unit_loss(tied)(p, unit)


def gradients(loss, params, ids):
    per_example = compiled(jax.vmap(jax.grad(loss), (None, 0)))(params, ids)
    return np.concatenate(
        [np.asarray(g, np.float64).reshape(EXAMPLES, -1) for g in jax.tree.leaves(per_example)], 1
    )


def is_sliced(loss, params, ids):
    example = jax.ShapeDtypeStruct(ids.shape[1:], ids.dtype)
    gradient = gradient_program(loss, False, params, example)
    found = sliced_table.sliced_norm_request(gradient.program, gradient.terms[0], Budget(2**20, 4))
    return found is not None


def differs(loss, params, ids, strategy):
    """The largest relative difference of norms, and that of the sums."""
    rows = gradients(loss, params, ids)
    lengths = np.linalg.norm(rows, axis=1)
    clip_norm = float(np.median(lengths))
    fn = dpjax.clipped_grad(loss, clip_norm=clip_norm, strategy=strategy)
    got = compiled(fn)(params, ids)
    total = np.minimum(1, clip_norm / lengths) @ rows
    flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(got.grads)])
    error = np.linalg.norm(flat - total) / np.linalg.norm(total)
    return np.max(np.abs(got.norms / lengths - 1)), error


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("strategy", FAST)
@pytest.mark.parametrize(
    "name", mark_slow(LOSSES, lambda name: name not in ("tied", "turned_table"))
)
def test_slices_and_lookups_equal_a_loop_over_examples(name, strategy):
    params, ids = inputs()
    if name == "turned_table":
        params["table"] = params["table"].T
    assert is_sliced(LOSSES[name], params, ids)
    assert max(differs(LOSSES[name], params, ids, strategy)) < 1e-5


@pytest.mark.parametrize("strategy", FAST)
def test_operands_in_bfloat16(strategy):
    params, ids = inputs()

    def loss(p, ids):
        return tied(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), p), ids)

    assert is_sliced(loss, params, ids)
    # The reference rounds each gradient.
    assert max(differs(loss, params, ids, strategy)) < 1e-2


@pytest.mark.parametrize("strategy", FAST)
def test_rows_that_a_loop_finds_too_late_are_not_guessed(strategy):
    """Their numbers are computed again by a loop, after the head's."""
    params, ids = inputs()

    def loss(p, ids):
        @jax.checkpoint
        def lookup(p, ids):
            _, numbers = jax.lax.scan(lambda n, i: ((n + i) % VOCAB,) * 2, 0, ids)
            return trunk(p, numbers)

        return head(lookup(p, ids), p["table"])

    assert not is_sliced(loss, params, ids)
    assert max(differs(loss, params, ids, strategy)) < 1e-5


def test_slices_that_share_no_side_are_not_guessed():
    params, ids = inputs()

    def loss(p, ids):
        h = trunk(p, ids)

        def step(h, rows):
            return jnp.tanh(h + (h @ rows.T) @ rows), None

        return jnp.sum(jax.lax.scan(step, h, p["table"][:60].reshape(6, 10, -1))[0])

    assert not is_sliced(loss, params, ids)
    assert max(differs(loss, params, ids, "two_backwards")) < 1e-5


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.slow
def test_no_array_of_examples_times_the_table_nor_of_logits():
    vocab, chunk, size, length, examples = 1003, 50, 32, 24, 8
    params = {"table": jnp.ones((vocab, size)), "w": jnp.ones((size, size))}

    def loss(p, ids):
        h = trunk(p, ids)
        sliced = p["table"][:1000].reshape(-1, chunk, size)

        def step(total, rows):
            return total + jnp.sum(jnp.sin(h @ rows.T)), None

        total, _ = jax.lax.scan(jax.checkpoint(step), 0.0, sliced)
        return total + jnp.sum(jnp.sin(h @ p["table"][1000:].T))

    def largest(strategy):
        fn = dpjax.clipped_grad(loss, clip_norm=1.0, strategy=strategy)
        ids = jnp.zeros((examples, length), jnp.int32)
        text = jax.jit(fn).lower(params, ids).compile().as_text()
        shapes = re.findall(r"\b[fsu]\d+\[([\d,]+)\]", text)
        return max(np.prod([int(n) for n in shape.split(",")]) for shape in shapes)

    assert largest("two_backwards") < examples * length * 1000
    assert largest("one_backward") < examples * vocab * size
    assert largest("materialize") >= examples * vocab * size


def test_explain_says_that_the_table_is_contracted_in_slices():
    params, ids = inputs()
    (table, _) = dpjax.explain(tied, params, ids).parameters
    assert sorted(term.description for term in table.terms) == [
        f"{COUNT} × contraction of {LENGTH}, {CHUNK} × {SIZE}",
        f"{LENGTH} rows of {SIZE} into {VOCAB}",
        f"contraction of {LENGTH}, {REST} × {SIZE}",
    ]


@pytest.mark.parametrize("strategy", FAST)
def test_where_slices_and_rows_nearly_cancel_no_norm_is_too_small(strategy):
    """The rows looked up take away nearly all that the head adds."""
    params, ids = inputs()
    closeness = jnp.logspace(-7, -3, EXAMPLES)

    def loss(p, example):
        own, close = example
        h = jax.lax.stop_gradient(trunk(p, own))
        # The head's gradient at row `own[0]` is (1 + close)·Σ_t h_t, the lookup's -Σ_t h_t.
        weights = (jnp.arange(VOCAB) == own[0]) * (1 + close)

        def step(total, parts):
            rows, weights = parts
            return total + jnp.sum(h @ rows.T * weights), None

        parts = (p["table"][:60].reshape(6, 10, -1), weights[:60].reshape(6, 10))
        looped, _ = jax.lax.scan(jax.checkpoint(step), 0.0, parts)
        rest = jnp.sum(h @ p["table"][60:].T * weights[60:])
        return looped + rest - jnp.sum(p["table"][own[:1]] * jnp.sum(h, 0))

    fn = compiled(dpjax.clipped_grad(loss, clip_norm=1.0, strategy=strategy))
    h = jax.vmap(functools.partial(trunk, params))(ids)
    exact = np.asarray(closeness) * np.linalg.norm(np.asarray(h, np.float64).sum(1), axis=1)
    assert np.all(np.asarray(fn(params, (ids, closeness)).norms) >= exact * (1 - 1e-3))


@pytest.mark.parametrize(
    "name", ["picked_columns", "cross"], ids=["cross terms of slices", "cross terms of the rest"]
)
def test_a_norm_without_cross_terms_is_noticed(monkeypatch, name):
    params, ids = inputs()
    original = getattr(norm, name)
    monkeypatch.setattr(norm, name, lambda *args: jax.tree.map(jnp.zeros_like, original(*args)))
    assert differs(tied, params, ids, "two_backwards")[0] > 1e-4
