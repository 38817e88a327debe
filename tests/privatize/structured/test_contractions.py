"""Norms of contractions: in blocks, in portions, at the ends of the range, in bfloat16."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from dpjax.privatize.structured.costs import methods
from dpjax.privatize.structured.costs.methods import Budget
from dpjax.privatize.structured.gradient import gradient_program
from dpjax.privatize.structured.norms import norm
from dpjax.privatize.structured.norms.contractions import contraction_norm
from dpjax.privatize.structured.terms.pieces import ContractionArrays
from tests.support.slow import mark_slow

AMPLE = Budget(2**26, 1)


def arrays(*shapes, seed=0, dtype=jnp.float32, scale=1.0):
    rng = np.random.default_rng(seed)
    return ContractionArrays(*[jnp.asarray(scale * rng.normal(size=s), dtype) for s in shapes])


def exact_norm(pair):
    a, g = (np.asarray(x, np.float64) for x in pair)
    return np.linalg.norm(np.einsum("...td,...tp->...dp", a, g))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(methods, "_SMALLEST_GRAM_BLOCK", 2)
    monkeypatch.setattr(methods, "_LARGEST_GRAM_BLOCK", 4)


@pytest.mark.parametrize(
    ("groups", "length"),
    mark_slow(
        itertools.product([(), (3,)], [1, 2, 3, 7, 8, 9, 13]),
        lambda groups, length: groups == (3,) and length != 13,
    ),
)
@pytest.mark.parametrize("widths", [(50, 60), (60, 50)])
def test_gram_in_blocks(small_blocks, length, groups, widths):
    pair = arrays(*[(*groups, length, width) for width in widths])
    assert methods.use_gram(length, *widths)
    np.testing.assert_allclose(contraction_norm(pair, AMPLE), exact_norm(pair), rtol=1e-5)


@pytest.mark.parametrize("values", [1, 40, 10**6])
@pytest.mark.parametrize("widths", [(5, 7), (7, 5), (1, 9)])
def test_formed_in_portions(values, widths):
    pair = arrays(*[(2, 30, width) for width in widths])
    assert not methods.use_gram(30, *widths)
    got = contraction_norm(pair, Budget(values, 1))
    np.testing.assert_allclose(got, exact_norm(pair), rtol=1e-5)


@pytest.mark.usefixtures("full_optimisation")
def test_no_array_of_a_portion_exceeds_the_budget():
    a, g = jax.ShapeDtypeStruct((40, 30), jnp.float32), jax.ShapeDtypeStruct((40, 999), jnp.float32)
    assert not methods.use_gram(40, 30, 999)
    budget = Budget(30 * 100, 1)
    lowered = jax.jit(lambda a, g: contraction_norm(ContractionArrays(a, g), budget)).lower(a, g)
    text = lowered.compile().as_text()
    assert "f32[30,999]" not in text
    assert "f32[30,100]" in text or "f32[100,30]" in text


@pytest.mark.parametrize("length", [3, 40])
@pytest.mark.parametrize("scale", [1e-15, 1e-12, 1e12, 1e14])
def test_the_ends_of_the_range(length, scale):
    pair = arrays((length, 6), (length, 9))
    pair = ContractionArrays(pair.a, pair.g * scale)
    np.testing.assert_allclose(
        contraction_norm(pair, AMPLE), exact_norm(pair), rtol=1e-5 if scale > 1e-13 else 1e-2
    )


@pytest.mark.parametrize("scale", [1e-18, 1e-22, 1e-30, 1e16, 1e25])
@pytest.mark.parametrize("swapped", [False, True])
def test_beyond_the_range_a_norm_is_too_large_or_not_finite(scale, swapped):
    pair = arrays((3, 50), (3, 60))
    pair = ContractionArrays(pair.a, pair.g * scale)
    pair = ContractionArrays(*pair[::-1]) if swapped else pair
    got = float(contraction_norm(pair, AMPLE))
    assert not np.isfinite(got) or got >= exact_norm(pair) * (1 - 1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("length", [3, 40])
def test_what_is_not_finite_shows(length, side, broken):
    pair = list(arrays((length, 6), (length, 9)))
    pair[side] = pair[side].at[1, 2].set(broken)
    # Zeros on the other side must not hide it.
    pair[1 - side] = pair[1 - side].at[1].set(0.0)
    assert not np.isfinite(contraction_norm(ContractionArrays(*pair), AMPLE))


@pytest.mark.quick_cases(3)
@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("strategy", ["one_backward", "two_backwards"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("length", [4, 64])
def test_bfloat16_operands_stay_below_the_clip_norm(strategy, length, tied):
    """What is added is rounded to bfloat16 after scaling; the norm allows for that."""
    size, examples = 32, 48
    rng = np.random.default_rng(3)
    x = rng.normal(size=(examples, length, size))
    # Pairs of tokens that nearly cancel, where rounding counts most.
    x[:, 1::2] = x[:, ::2] * (1 + 0.02 * rng.normal(size=(examples, length // 2, 1)))
    signs = np.repeat(rng.normal(size=(length // 2, size)), 2, axis=0)
    signs[1::2] *= -1
    params = {"w": jnp.asarray(rng.normal(size=(size, size)), jnp.bfloat16)}
    weights = jnp.asarray(signs, jnp.bfloat16)

    def loss(p, x):
        picked = jnp.sum(p["w"][jnp.arange(4)].astype(jnp.float32)) if tied else 0.0
        return picked + jnp.sum((x @ p["w"]).astype(jnp.float32) * weights.astype(jnp.float32))

    fn = jax.jit(dpjax.clipped_grad(loss, clip_norm=1.0, strategy=strategy, microbatch_size=1))
    batch = jnp.asarray(x, jnp.bfloat16)
    for i in range(0, examples, 6):
        alone = fn(params, batch[i : i + 1]).grads["w"]
        assert np.linalg.norm(np.asarray(alone, np.float64)) <= 1.0


def test_without_the_allowance_bfloat16_would_exceed_the_clip_norm(monkeypatch):
    monkeypatch.setattr(norm, "rounding_slack", lambda _: 0.0)
    with pytest.raises(AssertionError):
        for length in (4, 64):
            test_bfloat16_operands_stay_below_the_clip_norm("two_backwards", length, False)


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("strategy", ["one_backward", "two_backwards"])
def test_scaling_float16_operands_neither_overflows_nor_vanishes(strategy):
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.normal(size=(2, 3, 40)), jnp.float16)
    params = {"w": jnp.asarray(rng.normal(size=(40, 50)), jnp.float16)}

    def loss(p, x):
        return 300.0 * jnp.sum((x @ p["w"]).astype(jnp.float32))

    for clip_norm in (1e-6, 1e9):
        rule = dpjax.AutomaticClipping(clip_norm)
        total = jax.jit(dpjax.clipped_grad(loss, rule=rule, strategy=strategy))(params, x[:1]).grads
        assert np.linalg.norm(np.asarray(total["w"], np.float64)) == pytest.approx(clip_norm, 1e-3)


@pytest.mark.usefixtures("full_optimisation")
def test_products_are_kept_where_that_saves_time_and_memory():
    def is_kept(size, length, examples):
        params = {"w": jax.ShapeDtypeStruct((size, size), jnp.float32)}
        example = jax.ShapeDtypeStruct((length, size), jnp.float32)
        gradient = gradient_program(
            lambda p, x: jnp.sum(jnp.tanh(x @ p["w"])), False, params, example
        )
        return bool(methods.kept_formed(gradient.terms, examples))

    assert is_kept(512, 1024, 4)
    assert is_kept(512, 200, 4)
    assert not is_kept(512, 200, 2**12)
    assert not is_kept(2048, 16, 1)
