"""`clipped_grad` against a Python loop over examples, and the properties the guarantee rests on."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dpjax
from tests.support.slow import mark_slow


def mlp_loss(params, example):
    hidden = jnp.tanh(example["x"] @ params["first"]["w"] + params["first"]["b"])
    logits = hidden @ params["second"]["w"]
    return -jax.nn.log_softmax(logits.astype(jnp.float32))[example["y"]]


def make_params(seed=0, dtype=jnp.float32, scale=1.0):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "first": {
            "w": (scale * jax.random.normal(keys[0], (5, 7))).astype(dtype),
            "b": (scale * jax.random.normal(keys[1], (7,))).astype(dtype),
        },
        "second": {"w": (scale * jax.random.normal(keys[2], (7, 3))).astype(dtype)},
    }


def make_batch(size, seed=1, scale=1.0):
    keys = jax.random.split(jax.random.key(seed), 2)
    return {
        "x": scale * jax.random.normal(keys[0], (size, 5)),
        "y": jax.random.randint(keys[1], (size,), 0, 3),
    }


def row(batch, i):
    return jax.tree.map(lambda leaf: leaf[i], batch)


@functools.cache
def compiled(clip_norm, microbatch_size=None):
    fn = dpjax.clipped_grad(mlp_loss, clip_norm=clip_norm, microbatch_size=microbatch_size)
    return fn, jax.jit(fn)


single_gradient = jax.jit(jax.value_and_grad(mlp_loss))


def flatten(tree):
    return np.concatenate([np.asarray(g, np.float64).ravel() for g in jax.tree.leaves(tree)])


def loop_reference(params, batch, clip_norm, mask):
    """Float64 NumPy over single-example gradients."""
    total, norms, losses = 0.0, [], []
    for i, counts in enumerate(mask):
        loss, grad = single_gradient(params, row(batch, i))
        flat = flatten(grad)
        norm = np.linalg.norm(flat)
        if counts:
            total = total + min(1.0, clip_norm / norm) * flat if norm else total + flat
        norms.append(norm if counts else 0.0)
        losses.append(float(loss) if counts else 0.0)
    return total, np.array(norms), np.array(losses)


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize(
    ("clip_norm", "microbatch_size"),
    mark_slow(
        itertools.product([1e-6, 0.5, 1e6], [None, 1, 3, 4, 100]),
        lambda clip_norm, microbatch_size: clip_norm != 0.5 and microbatch_size in (1, 4, 100),
    ),
)
def test_equals_a_loop_over_examples(clip_norm, microbatch_size):
    params, batch = make_params(), make_batch(8)
    mask = np.array([1, 1, 0, 1, 1, 0, 1, 1], bool)
    got = compiled(clip_norm, microbatch_size)[1](params, batch, mask)
    total, norms, losses = loop_reference(params, batch, clip_norm, mask)
    np.testing.assert_allclose(flatten(got.grads), total, rtol=1e-5, atol=1e-5 * abs(total).max())
    np.testing.assert_allclose(got.norms, norms, rtol=1e-5)
    np.testing.assert_allclose(got.losses, losses, rtol=1e-5)
    assert jax.tree.structure(got.grads) == jax.tree.structure(params)


def test_clipping_is_per_example_not_of_the_mean():
    batch = make_batch(6, scale=10.0)
    got = dpjax.clipped_grad(mlp_loss, clip_norm=0.1)(make_params(), batch)
    mean_grad = jax.grad(lambda p: jnp.mean(jax.vmap(mlp_loss, (None, 0))(p, batch)))(make_params())
    flat = flatten(mean_grad)
    clipped_mean = 6 * flat * min(1.0, 0.1 / np.linalg.norm(flat))
    assert np.linalg.norm(flatten(got.grads) - clipped_mean) > 1e-2


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_masked_rows_contribute_exactly_zero(garbage, microbatch_size):
    params, batch = make_params(), make_batch(5)
    mask = np.array([1, 0, 1, 0, 1], bool)
    dirty = {"x": batch["x"].at[jnp.array([1, 3])].set(garbage), "y": batch["y"]}
    _, fn = compiled(0.5, microbatch_size)
    clean, soiled = fn(params, batch, mask), fn(params, dirty, mask)
    np.testing.assert_array_equal(flatten(clean.grads), flatten(soiled.grads))
    np.testing.assert_array_equal(soiled.norms[np.array([1, 3])], 0)
    assert int(soiled.num_nonfinite) == 0
    nothing = fn(params, dirty, np.zeros(5, bool))
    assert not flatten(nothing.grads).any()


def test_nonfinite_examples_contribute_zero_and_are_counted():
    params, batch = make_params(), make_batch(4)
    dirty = {"x": batch["x"].at[2].set(np.nan), "y": batch["y"]}
    _, fn = compiled(0.5)
    got = fn(params, dirty, np.ones(4, bool))
    without = fn(params, batch, np.array([1, 1, 0, 1], bool))
    assert int(got.num_nonfinite) == 1
    np.testing.assert_array_equal(flatten(got.grads), flatten(without.grads))


@pytest.mark.parametrize("has_aux", [False, True])
def test_an_empty_batch_is_legal(has_aux):
    def loss(params, example):
        value = mlp_loss(params, example)
        return (value, {"twice": 2 * value}) if has_aux else value

    fn = dpjax.clipped_grad(loss, clip_norm=1.0, has_aux=has_aux, microbatch_size=4)
    got = jax.jit(fn)(make_params(), make_batch(0))
    assert not flatten(got.grads).any()
    assert got.norms.shape == got.losses.shape == (0,)
    assert (got.aux["twice"].shape == (0,)) if has_aux else got.aux is None


@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_aux_keeps_the_example_axis(microbatch_size):
    def loss(params, example):
        value = mlp_loss(params, example)
        return value, (example["y"], 2 * value)

    fn = dpjax.clipped_grad(loss, clip_norm=1.0, has_aux=True, microbatch_size=microbatch_size)
    batch = make_batch(5)
    got = fn(make_params(), batch)
    np.testing.assert_array_equal(got.aux[0], batch["y"])
    np.testing.assert_allclose(got.aux[1], 2 * got.losses, rtol=1e-6)


def test_random_keys_may_be_part_of_the_example():
    def loss(params, example):
        keep = jax.random.bernoulli(example["key"], 0.5, (5,))
        return mlp_loss(params, {"x": example["x"] * keep, "y": example["y"]})

    batch = make_batch(5) | {"key": jax.random.split(jax.random.key(3), 5)}
    whole = dpjax.clipped_grad(loss, clip_norm=0.3)(make_params(), batch)
    parts = dpjax.clipped_grad(loss, clip_norm=0.3, microbatch_size=2)(make_params(), batch)
    np.testing.assert_allclose(flatten(whole.grads), flatten(parts.grads), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_parameters_give_float32_results(dtype):
    params, batch = make_params(dtype=dtype), make_batch(64, scale=5.0)
    got = compiled(0.1, 1)[1](params, batch)
    assert {g.dtype for g in jax.tree.leaves(got.grads)} == {jnp.dtype(jnp.float32)}
    assert got.norms.dtype == got.losses.dtype == jnp.float32
    total, norms, _ = loop_reference(params, batch, 0.1, np.ones(64, bool))
    # The single-example gradients are rounded to the parameters' dtype, not the norms or the sum.
    np.testing.assert_allclose(got.norms, norms, rtol=2e-2, atol=1e-3)
    np.testing.assert_allclose(flatten(got.grads), total, atol=2e-2 * abs(total).max())


@pytest.mark.usefixtures("full_optimisation")
def test_many_low_precision_leaves_stay_within_the_clip_norm():
    params = {str(i): jnp.ones(16, jnp.bfloat16) for i in range(400)}

    def loss(p, example):
        return example * sum(jnp.sum(leaf.astype(jnp.float32) * 0.37) for leaf in p.values())

    got = dpjax.clipped_grad(loss, clip_norm=1.0)(params, jnp.ones(1))
    assert np.linalg.norm(flatten(got.grads)) <= 1.0


@pytest.mark.usefixtures("full_optimisation")
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    param_scale=st.sampled_from([1e-3, 1.0, 30.0]),
    data_scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e4, 1e12]),
    clip_norm=st.sampled_from([1e-3, 1.0, 50.0]),
    removed=st.integers(0, 3),
)
def test_sensitivity_of_the_sum(seed, param_scale, data_scale, clip_norm, removed):
    """Neighbouring batches differ by at most C in the sum: removed by mask, and by shape."""
    params = make_params(seed, scale=param_scale)
    batch = make_batch(4, seed + 1, scale=data_scale)
    fn, call = compiled(clip_norm)
    everyone = np.ones(4, bool)
    whole = flatten(call(params, batch, everyone).grads)
    keep = np.arange(4) != removed
    by_mask = flatten(call(params, batch, keep).grads)
    smaller = jax.tree.map(lambda leaf: leaf[keep], batch)
    by_shape = flatten(call(params, smaller, everyone[:3]).grads)
    alone = flatten(call(params, batch, ~keep).grads)
    assert np.linalg.norm(alone) <= fn.sensitivity()
    for neighbour in (by_mask, by_shape):
        assert np.linalg.norm(whole - neighbour) <= fn.sensitivity() * (1 + 1e-5)
    other = make_batch(4, seed + 2, scale=data_scale)
    replaced = jax.tree.map(lambda a, b: a.at[removed].set(b[removed]), batch, other)
    distance = np.linalg.norm(whole - flatten(call(params, replaced, everyone).grads))
    assert distance <= fn.sensitivity("replace_one") * (1 + 1e-5)


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e25])
def test_norms_neither_overflow_nor_vanish(scale):
    got = dpjax.clipped_grad(lambda p, x: jnp.sum(p * x), clip_norm=1e-35)(
        jnp.zeros(3), jnp.full((1, 3), scale, jnp.float32)
    )
    np.testing.assert_allclose(got.norms, [scale * np.sqrt(3)], rtol=1e-5)
    assert np.linalg.norm(flatten(got.grads)) == pytest.approx(1e-35, rel=1e-5)


@pytest.mark.usefixtures("full_optimisation")
def test_norm_of_a_large_leaf_is_accurate():
    size = 3_000_000
    got = dpjax.clipped_grad(lambda p, x: jnp.sum(p * x), clip_norm=1.0)(
        jnp.zeros(size), jnp.full((1, size), 0.1, jnp.float32)
    )
    np.testing.assert_allclose(got.norms, [np.float64(np.float32(0.1)) * np.sqrt(size)], rtol=1e-6)
    assert np.linalg.norm(flatten(got.grads)) <= 1.0


def test_sensitivity_by_relation():
    fn = dpjax.clipped_grad(mlp_loss, clip_norm=0.7)
    assert fn.sensitivity() == fn.sensitivity("zero_out") == 0.7
    assert fn.sensitivity("replace_one") == 1.4
    with pytest.raises(ValueError, match="replace_one"):
        fn.sensitivity("swap")


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"clip_norm": 0}, ValueError, "positive"),
        ({"clip_norm": -1.0}, ValueError, "positive"),
        ({"clip_norm": float("inf")}, ValueError, "finite"),
        ({"clip_norm": "1"}, TypeError, "number"),
        ({"clip_norm": 1, "microbatch_size": 0}, ValueError, "at least 1"),
        ({"clip_norm": 1, "strategy": "materialise"}, ValueError, "Did you mean 'materialize'"),
    ],
)
def test_bad_options(kwargs, error, message):
    with pytest.raises(error, match=message):
        dpjax.clipped_grad(mlp_loss, **kwargs)


@pytest.mark.parametrize(
    ("params", "batch", "mask", "error", "message"),
    [
        (make_params(), {}, None, ValueError, "no arrays"),
        (make_params(), {"x": jnp.ones((2, 5)), "y": 1}, None, ValueError, "scalar"),
        (make_params(), {"x": jnp.ones((2, 5)), "y": jnp.ones(3)}, None, ValueError, "disagree"),
        (make_params(), make_batch(2), np.ones(2), TypeError, "boolean"),
        (make_params(), make_batch(2), np.ones(3, bool), ValueError, r"shape \(2,\)"),
    ],
)
def test_bad_calls(params, batch, mask, error, message):
    with pytest.raises(error, match=message):
        dpjax.clipped_grad(mlp_loss, clip_norm=1.0)(params, batch, mask)


@pytest.mark.parametrize("strategy", ["auto", "materialize", "one_backward", "two_backwards"])
def test_a_loss_that_is_a_number_of_python_has_no_gradient(strategy):
    clipped = dpjax.clipped_grad(lambda p, x: 0.5, clip_norm=1.0, strategy=strategy)
    result = clipped({"w": jnp.ones(3)}, jnp.ones((2, 3)))
    np.testing.assert_array_equal(result.grads["w"], np.zeros(3))


def test_a_loss_that_is_not_scalar_is_refused():
    fn = dpjax.clipped_grad(lambda p, x: p["first"]["b"], clip_norm=1.0)
    with pytest.raises(ValueError, match="one scalar for one example"):
        fn(make_params(), jnp.ones((2, 5)))
