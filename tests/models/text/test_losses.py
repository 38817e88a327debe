"""Chunked language-model losses against optax on full logits, and under the clipped gradient."""

import ast
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dpjax
from dpjax.models.text import losses
from dpjax.models.text.losses import (
    causal_lm_loss,
    sequence_classification_loss,
    token_classification_loss,
    token_losses,
)
from tests.support.properties import compiled

LENGTH, VOCAB, SIZE = 5, 23, 6
STRATEGIES = ("materialize", "one_backward", "two_backwards")


def arrays(vocab=VOCAB, scale=1.0, dtype=jnp.float32):
    """Hidden states, a head (V, d), a bias, targets and a mask."""
    rng = np.random.default_rng(0)
    hidden, head, bias = (
        jnp.asarray(scale * rng.normal(size=shape), dtype)
        for shape in ((LENGTH, SIZE), (vocab, SIZE), (vocab,))
    )
    targets = jnp.asarray([0, vocab - 1, 3, 1, 2], jnp.int32)
    return hidden, head, bias, targets, jnp.asarray([True, True, False, True, True])


def on_full_logits(hidden, head, bias, targets, softcap=None):
    logits = hidden.astype(jnp.float32) @ head.astype(jnp.float32).T
    logits += 0.0 if bias is None else bias
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def assert_close(got, want, tolerance=1e-5):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        one, other = (np.asarray(x, np.float64) for x in (one, other))
        assert np.linalg.norm(one - other) <= tolerance * max(1e-3, np.linalg.norm(other))


@pytest.mark.parametrize(
    ("vocab", "chunk", "axis"),
    [(23, chunk, 0) for chunk in (1, 2, 5, 11, 22, 23, 99)]
    + [(23, None, axis) for axis in (0, 1)]
    + [(23, 5, 1), (24, 8, 1), (4, 3, 0)],
)
def test_value_and_gradients_equal_those_of_full_logits(vocab, chunk, axis):
    hidden, head, bias, targets, mask = arrays(vocab)

    def ours(hidden, head, bias):
        return causal_lm_loss(
            hidden,
            head if axis == 0 else head.T,
            targets,
            mask,
            vocab_axis=axis,
            vocab_chunk=chunk,
            reduction="sum",
            logit_softcap=2.0,
            bias=bias,
        )

    def theirs(hidden, head, bias):
        return jnp.sum(on_full_logits(hidden, head, bias, targets, softcap=2.0) * mask)

    got, want = (
        compiled(jax.value_and_grad(loss, (0, 1, 2)))(hidden, head, bias) for loss in (ours, theirs)
    )
    assert got[0].dtype == jnp.float32
    assert_close(got, want)


@pytest.mark.parametrize("chunk", [None, 5])
def test_reductions_and_losses_of_tokens(chunk):
    hidden, head, _, targets, mask = arrays()
    options = {"vocab_axis": 0, "vocab_chunk": chunk}
    want = on_full_logits(hidden, head, None, targets)
    assert_close(token_losses(hidden, head, targets, **options), want)
    for reduction, total in (("sum", want[mask].sum()), ("mean", want[mask].mean())):
        got = causal_lm_loss(hidden, head, targets, mask, reduction=reduction, **options)
        assert_close(got, total)


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_without_a_counted_token_loss_and_gradient_are_zero(reduction, chunk):
    hidden, head, _, targets, mask = arrays()

    def loss(hidden, head):
        none = jnp.zeros_like(mask)
        options = {"vocab_axis": 0, "vocab_chunk": chunk, "reduction": reduction}
        return causal_lm_loss(hidden, head, targets, none, **options)

    for leaf in jax.tree.leaves(compiled(jax.value_and_grad(loss, (0, 1)))(hidden, head)):
        assert not np.any(leaf)


@pytest.mark.parametrize("chunk", [None, 5])
def test_what_is_not_counted_contributes_nothing_whatever_it_holds(chunk):
    hidden, head, _, targets, mask = arrays()

    def loss(hidden, head, targets):
        return causal_lm_loss(hidden, head, targets, mask, vocab_axis=0, vocab_chunk=chunk)

    fn = compiled(jax.value_and_grad(loss, (0, 1)))
    want = fn(hidden, head, targets)
    got = fn(hidden.at[2].set(jnp.nan), head, targets.at[2].set(-100))
    assert_close(got, want, tolerance=0)


@pytest.mark.parametrize("chunk", [None, 5])
def test_a_counted_target_outside_the_vocabulary_leaves_the_example_out(chunk):
    hidden, head, _, targets, mask = arrays()

    def loss(head, targets):
        return causal_lm_loss(hidden, head, targets, mask, vocab_axis=0, vocab_chunk=chunk)

    batch = jnp.stack([targets, targets.at[0].set(VOCAB), targets.at[0].set(-1)])
    got = compiled(dpjax.clipped_grad(loss, clip_norm=1e6, strategy="two_backwards"))(head, batch)
    np.testing.assert_array_equal(got.counted, [True, False, False])
    assert_close(got.grads, jax.grad(loss)(head, targets))


@pytest.mark.parametrize("chunk", [None, 5])
def test_huge_logits_are_finite_and_exact(chunk):
    hidden, head, _, targets, mask = arrays(scale=100.0)

    def loss(hidden, head, masked):
        if masked is None:
            return jnp.mean(on_full_logits(hidden, head, None, targets)[mask])
        return causal_lm_loss(hidden, head, targets, masked, vocab_axis=0, vocab_chunk=chunk)

    assert jnp.max(jnp.abs(hidden @ head.T)) > 1e4
    got, want = (jax.value_and_grad(loss, (0, 1))(hidden, head, one) for one in (mask, None))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(got))
    assert_close(got, want)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_formats_are_added_up_in_float32(dtype):
    hidden, head, _, targets, _ = arrays(dtype=dtype)
    got = token_losses(hidden, head, targets, vocab_axis=0, vocab_chunk=5)
    assert got.dtype == jnp.float32
    # Products of two short numbers are exact in float32.
    assert_close(got, on_full_logits(hidden, head, None, targets))
    rounded = token_losses(hidden, head.astype(jnp.float32) + 1e-5, targets, vocab_axis=0)
    assert_close(rounded, got, tolerance=1e-2)


def language_model(tied, low=False, chunk=5):
    """Parameters, three sequences, the loss of one."""
    rng = np.random.default_rng(1)
    shapes = {"table": (VOCAB, SIZE), "w": (SIZE, SIZE)} | ({} if tied else {"head": (SIZE, VOCAB)})
    params = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    ids = rng.integers(0, VOCAB, (3, LENGTH + 1))
    ids[0], ids[1, 2:] = (0, 0, VOCAB - 1, VOCAB - 1, 5, 4), 2

    def loss(p, ids):
        if low:
            p = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), p)
        return causal_lm_loss(
            jnp.tanh(p["table"][ids[:-1]] @ p["w"]),
            p["table"] if tied else p["head"],
            ids[1:],
            ids[1:] != 5,
            vocab_axis=0 if tied else 1,
            vocab_chunk=chunk,
            logit_softcap=3.0,
        )

    return params, jnp.asarray(ids, jnp.int32), loss


@pytest.mark.slow
@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_clipped_gradient_equals_a_loop_over_examples(tied, low):
    params, ids, loss = language_model(tied, low)
    gradient = compiled(jax.grad(loss))
    rows = np.stack(
        [
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient(params, one))])
            for one in ids
        ]
    ).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    clip_norm = float(np.median(lengths))
    total = np.minimum(1, clip_norm / lengths) @ rows
    for strategy in STRATEGIES:
        fn = compiled(dpjax.clipped_grad(loss, clip_norm=clip_norm, strategy=strategy))
        got = fn(params, ids)
        # In bfloat16 the reference rounds every gradient, and norms allow for rounding.
        tolerance = 1e-2 if low else 1e-5
        assert_close(got.norms, lengths, tolerance)
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(got.grads)])
        assert_close(flat, total, tolerance)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_core_sees_the_head_as_contractions(tied):
    params, ids, loss = language_model(tied)
    found = {one.name: one.terms for one in dpjax.explain(loss, params, ids).parameters}
    terms = [term.description for term in found["['table']" if tied else "['head']"]]
    assert f"4 × contraction of {LENGTH}, 5 × {SIZE}" in terms
    assert f"contraction of {LENGTH}, 3 × {SIZE}" in terms
    assert not any("dense" in term for term in terms)


@pytest.mark.slow
@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_of_all_tokens_are_never_alive(tied):
    vocab, length, size, chunk, examples = 1009, 32, 24, 50, 8
    shapes = {"table": (vocab, size)} | ({} if tied else {"head": (size, vocab)})
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    ids = jax.ShapeDtypeStruct((examples, length), jnp.int32)

    def program(strategy, chunk):
        def loss(p, ids):
            head = p["table"] if tied else p["head"]
            options = {"vocab_axis": 0 if tied else 1, "vocab_chunk": chunk}
            return causal_lm_loss(jnp.tanh(p["table"][ids]), head, ids, ids > 0, **options)

        fn = dpjax.clipped_grad(loss, clip_norm=1.0, strategy=strategy)
        return jax.jit(fn).lower(params, ids).compile()

    def largest(text):
        shapes = re.findall(r"\b[fsu]\d+\[([\d,]+)\]", text)
        return max(np.prod([int(n) for n in shape.split(",")]) for shape in shapes)

    chunked = program("two_backwards", chunk)
    assert largest(chunked.as_text()) < min(examples * length * vocab, examples * vocab * size) / 2
    assert largest(program("one_backward", chunk).as_text()) < 1.2 * examples * length * vocab
    memory = chunked.memory_analysis()
    if memory is not None:
        full = program("two_backwards", None).memory_analysis()
        assert memory.temp_size_in_bytes < 0.5 * full.temp_size_in_bytes


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_class_equals_that_of_smoothed_targets(smoothing):
    logits = jnp.asarray([1.0, -2.0, 0.5], jnp.bfloat16)

    def theirs(logits):
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        return -(1 - smoothing) * log_probs[2] - smoothing * jnp.mean(log_probs)

    def ours(logits):
        return sequence_classification_loss(logits, jnp.int32(2), smoothing)

    got, want = (jax.value_and_grad(loss)(logits) for loss in (ours, theirs))
    assert got[0].dtype == jnp.float32
    assert_close(got, want)
    without_class = sequence_classification_loss(logits, jnp.int32(3), smoothing)
    spread = -smoothing * jnp.mean(jax.nn.log_softmax(logits.astype(jnp.float32)))
    np.testing.assert_allclose(without_class, spread, rtol=1e-6)


def test_the_loss_of_the_classes_of_tokens():
    logits = arrays()[0]
    labels = jnp.asarray([0, SIZE - 1, -100, 2, 3])
    mask = labels >= 0

    def theirs(logits):
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels * mask)
        return jnp.sum(each * mask) / 4

    def ours(logits, mask=mask):
        return token_classification_loss(logits, labels, mask)

    got, want = (jax.value_and_grad(loss)(logits) for loss in (ours, theirs))
    assert_close(got, want)
    assert_close(jax.value_and_grad(ours)(logits.at[2].set(jnp.nan)), want)
    nothing = jax.value_and_grad(ours)(logits, jnp.zeros_like(mask))
    assert not any(np.any(leaf) for leaf in nothing)
    assert np.isnan(ours(logits, jnp.ones_like(mask)))


def _replaced(**changes):
    hidden, head, bias, targets, mask = arrays()
    options = {"vocab_axis": 0, "bias": bias}
    call = {"hidden": hidden, "head": head, "targets": targets, "loss_mask": mask} | options
    return functools.partial(causal_lm_loss, **(call | changes))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (_replaced(vocab_axis=1), ValueError, "vocab_axis=0"),
        (_replaced(vocab_axis=2), ValueError, "got 2"),
        (_replaced(reduction="max"), ValueError, "'max'"),
        (_replaced(vocab_chunk=0), ValueError, "at least 1, got 0"),
        (_replaced(logit_softcap=0.0), ValueError, "above 0, got 0.0"),
        (_replaced(bias=jnp.zeros(3)), ValueError, r"\(23,\).*got \(3,\)"),
        (_replaced(hidden=jnp.zeros((2, LENGTH, SIZE))), ValueError, "jax.vmap"),
        (_replaced(hidden=jnp.zeros((9, SIZE))), ValueError, r"\(9,\).*got \(5,\)"),
        (_replaced(hidden=jnp.zeros((LENGTH, SIZE), int)), TypeError, "floating-point"),
        (_replaced(targets=jnp.zeros(LENGTH)), TypeError, "targets must be integers"),
        (_replaced(loss_mask=jnp.ones(LENGTH)), TypeError, "boolean"),
        (_replaced(loss_mask=jnp.ones(2, bool)), ValueError, r"got \(2,\)"),
        (lambda: sequence_classification_loss(jnp.ones(3), jnp.array([1])), ValueError, "scalar"),
        (lambda: sequence_classification_loss(jnp.ones(3), 1, 1.0), ValueError, "got 1.0"),
        (
            lambda: token_classification_loss(jnp.ones((3, 2)), jnp.ones(4, int), jnp.ones(4) > 0),
            ValueError,
            r"labels must have shape \(3,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_words(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_module_needs_nothing_but_jax():
    tree = ast.parse(Path(losses.__file__).read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert {name.split(".")[0] for name in names} == {"__future__", "collections", "typing", "jax"}
