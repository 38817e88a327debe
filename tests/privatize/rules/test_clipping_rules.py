"""Every clipping rule with every strategy against a float64 loop, and what one example may add."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dpjax
from dpjax import AutomaticClipping, FlatClipping, PerGroupClipping
from tests.support.slow import mark_slow
from tests.support.structures import build

STRATEGIES = ("materialize", "one_backward", "two_backwards", "auto")
GROUPS = {"embedding": 0.7, "layers": 0.4, "unused": 0.1}


def group_of(path):
    return {"table": "embedding", "idle": "unused"}.get(path, "layers")


RULES = {
    "flat": FlatClipping(0.9),
    "automatic": AutomaticClipping(0.9, stability=0.3),
    "per_group": PerGroupClipping(group_of, GROUPS),
}
CLIP_NORMS = {"flat": 0.9, "automatic": 0.9, "per_group": np.sqrt(0.7**2 + 0.4**2 + 0.1**2)}


@functools.cache
def model():
    """A network with a tied table, a scan, and a parameter that is not used; and its gradients."""
    params, batch, loss = build("tied_scanned_rematerialised_decoder")
    params = params | {"idle": jnp.ones(3)}
    gradient = jax.jit(jax.grad(loss))
    gradients = [
        jax.tree.map(lambda g: np.asarray(g, np.float64), gradient(params, row)) for row in batch
    ]
    return params, batch, loss, gradients


@functools.cache
def compiled(rule, strategy):
    loss = model()[2]

    def scaled(p, example):
        scale, ids = example
        return scale * loss(p, ids)

    return jax.jit(dpjax.clipped_grad(scaled, rule=RULES[rule], strategy=strategy))


def clipped(rule, strategy, scales, mask=None):
    params, batch, _, _ = model()
    return compiled(rule, strategy)(params, (jnp.asarray(scales, jnp.float32), batch), mask)


def flatten(tree):
    return np.concatenate([np.asarray(g, np.float64).ravel() for g in jax.tree.leaves(tree)])


def norm(arrays):
    return np.sqrt(sum(np.sum(np.square(array)) for array in arrays))


def contribution(rule, gradient):
    """What one example adds, and whether it was shortened; written again, in float64."""
    if rule == "flat":
        factors = dict.fromkeys(gradient, min(1.0, 0.9 / norm(gradient.values())))
    elif rule == "automatic":
        factors = dict.fromkeys(gradient, 0.9 / (norm(gradient.values()) + 0.3))
    else:
        layers = min(1.0, 0.4 / norm([gradient["w"], gradient["s"]]))
        factors = {"w": layers, "s": layers, "idle": 1.0}
        factors["table"] = min(1.0, 0.7 / norm([gradient["table"]]))
    added = {name: factors[name] * leaf for name, leaf in gradient.items()}
    return added, min(factors.values()) < 1


@pytest.mark.quick_cases(6)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rule", RULES)
def test_equals_a_loop_over_examples(rule, strategy):
    _, _, _, gradients = model()
    scales, mask = [0.02, 0.3, 5.0, 7.0], np.array([1, 1, 0, 1], bool)
    scaled = [{n: s * g for n, g in one.items()} for s, one in zip(scales, gradients, strict=True)]
    got = clipped(rule, strategy, scales, mask)
    total, shortened = 0.0, []
    for counts, gradient in zip(mask, scaled, strict=True):
        added, short = contribution(rule, gradient)
        total = total + counts * flatten(added)
        shortened.append(bool(counts) and short)
    assert np.linalg.norm(flatten(got.grads) - total) <= 1e-5 * np.linalg.norm(total)
    norms = np.array([norm(g.values()) for g in scaled]) * mask
    np.testing.assert_allclose(got.norms, norms, rtol=1e-5)
    np.testing.assert_array_equal(got.clipped, shortened)
    np.testing.assert_array_equal(got.counted, mask)
    assert int(got.num_clipped) == sum(shortened)
    counted = max(1, int(np.sum(got.counted)))
    assert float(got.clipped_fraction) == pytest.approx(sum(shortened) / counted)
    assert float(got.centered_count) == 1.5 - sum(shortened)
    if rule != "per_group":
        assert got.group_norms is None
        return
    group_norms = [[norm([g["table"]]), norm([g["w"], g["s"]]), 0.0] for g in scaled]
    np.testing.assert_allclose(got.group_norms, group_norms * mask[:, None], rtol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rule", RULES)
def test_masked_and_nonfinite_examples_contribute_zero(rule, strategy):
    mask = np.array([1, 1, 0, 1], bool)
    got = clipped(rule, strategy, [1.0, np.nan, np.inf, 2.0], mask)
    without = clipped(rule, strategy, [1.0, 1.0, 1.0, 2.0], np.array([1, 0, 0, 1], bool))
    np.testing.assert_array_equal(flatten(got.grads), flatten(without.grads))
    assert int(got.num_nonfinite) == 1
    np.testing.assert_array_equal(got.counted, [True, False, False, True])
    np.testing.assert_array_equal(got.clipped, without.clipped)
    assert float(got.centered_count) == float(without.centered_count)


def test_one_group_that_is_not_finite_leaves_the_whole_example_out():
    rule = PerGroupClipping(lambda path: path, {"a": 1.0, "b": 1.0})
    fn = dpjax.clipped_grad(lambda p, x: p["a"] * x[0] + p["b"] * x[1], rule=rule)
    params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    got = fn(params, jnp.array([[0.5, jnp.nan], [0.25, 0.5]]))
    assert (float(got.grads["a"]), float(got.grads["b"])) == (0.25, 0.5)
    assert int(got.num_nonfinite) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=12, deadline=None)
@given(
    exponents=st.lists(st.floats(-12, 12), min_size=4, max_size=4),
    other=st.floats(-12, 12),
    changed=st.integers(0, 3),
)
def test_sensitivity(rule, strategy, exponents, other, changed):
    """Neighbouring batches differ by at most the stated sensitivity in the sum."""
    fn = dpjax.clipped_grad(model()[2], rule=RULES[rule])
    scales = 10.0 ** np.array(exponents)
    others = np.arange(4) != changed
    whole, fewer, alone = (
        flatten(clipped(rule, strategy, scales, mask).grads)
        for mask in (np.ones(4, bool), others, ~others)
    )
    assert np.linalg.norm(alone) <= fn.sensitivity()
    assert np.linalg.norm(whole - fewer) <= fn.sensitivity() * (1 + 1e-5)
    replaced = np.where(others, scales, -(10.0**other))
    distance = np.linalg.norm(
        whole - flatten(clipped(rule, strategy, replaced, np.ones(4, bool)).grads)
    )
    assert distance <= fn.sensitivity("replace_one") * (1 + 1e-5)


@pytest.mark.parametrize("rule", ["flat", "automatic"])
def test_the_sensitivity_is_attained(rule):
    alone = flatten(clipped(rule, "materialize", [1e12] * 4, np.arange(4) == 1).grads)
    assert np.linalg.norm(alone) > 0.9999 * CLIP_NORMS[rule]


def test_the_sensitivity_of_groups_is_attained_by_all_groups_together():
    rule = PerGroupClipping(lambda path: path, {"a": 3.0, "b": 4.0})
    fn = dpjax.clipped_grad(lambda p, x: jnp.sum(p["a"] + p["b"]) * x, rule=rule)
    got = fn({"a": jnp.ones(5), "b": jnp.ones(5)}, jnp.array([1e6]))
    assert fn.clip_norm == fn.sensitivity() == fn.sensitivity("zero_out") == 5.0
    assert fn.sensitivity("replace_one") == 10.0
    assert 4.9999 < np.linalg.norm(flatten(got.grads)) <= 5.0


@pytest.mark.parametrize("rule", RULES)
def test_the_clip_norm_is_that_of_all_groups_together(rule):
    fn = dpjax.clipped_grad(model()[2], rule=RULES[rule])
    assert fn.clip_norm == pytest.approx(CLIP_NORMS[rule], rel=1e-12)
    assert fn.sensitivity() == fn.clip_norm
    assert fn.sensitivity("replace_one") == 2 * fn.clip_norm


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("clip_norm", [1e-4, 1.0, 300.0])
@pytest.mark.parametrize("stability", [1e-30, 1e-6, 0.01, 10.0])
def test_automatic_clipping_stays_below_the_clip_norm_at_every_scale(clip_norm, stability):
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(200, 37))
    lengths = 10.0 ** np.linspace(-12, 12, 200)
    gradients = directions / np.linalg.norm(directions, axis=1, keepdims=True) * lengths[:, None]
    fn = dpjax.clipped_grad(
        lambda p, x: jnp.sum(p * x), rule=AutomaticClipping(clip_norm, stability=stability)
    )
    one = jax.jit(jax.vmap(lambda x: fn(jnp.zeros(37), x[None]).grads))
    norms = np.linalg.norm(np.asarray(one(gradients.astype(np.float32)), np.float64), axis=1)
    assert norms.max() < clip_norm
    np.testing.assert_allclose(norms, clip_norm * lengths / (lengths + stability), rtol=1e-5)


def test_automatic_clipping_of_a_gradient_that_is_zero():
    fn = dpjax.clipped_grad(lambda p, x: jnp.sum(p * x), rule=AutomaticClipping(1.0, 1e-300))
    got = fn(jnp.ones(3), jnp.zeros((2, 3)))
    np.testing.assert_array_equal(got.grads, 0)
    assert int(got.num_nonfinite) == 0


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "strategy",
    mark_slow(STRATEGIES, lambda strategy: strategy in ("materialize", "one_backward")),
)
@pytest.mark.usefixtures("compilations_count")
@pytest.mark.slow
def test_a_traced_clip_norm_needs_one_compilation(strategy):
    params, batch, loss, _ = model()

    @jax.jit
    def step(clip_norm):
        fn = dpjax.clipped_grad(loss, clip_norm=clip_norm, strategy=strategy, microbatch_size=2)
        return fn(params, batch).grads, fn.sensitivity("replace_one")

    for clip_norm in (0.1, 0.5):
        grads, sensitivity = step(jnp.float32(clip_norm))
        assert sensitivity == pytest.approx(2 * clip_norm)
        fixed = dpjax.clipped_grad(loss, clip_norm=clip_norm, strategy=strategy)(params, batch)
        np.testing.assert_allclose(flatten(grads), flatten(fixed.grads), rtol=1e-4, atol=1e-6)
    assert step._cache_size() == 1


@pytest.mark.slow
def test_traced_clip_norms_of_groups():
    params, batch, loss, _ = model()

    @jax.jit
    def step(factor):
        norms = {name: factor * value for name, value in GROUPS.items()}
        fn = dpjax.clipped_grad(loss, rule=PerGroupClipping(group_of, norms))
        return fn(params, batch).grads, fn.clip_norm

    grads, clip_norm = step(jnp.float32(1.0))
    fixed = dpjax.clipped_grad(loss, rule=RULES["per_group"])(params, batch)
    assert clip_norm == pytest.approx(CLIP_NORMS["per_group"])
    np.testing.assert_allclose(flatten(grads), flatten(fixed.grads), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.slow
def test_a_clip_norm_of_low_precision_keeps_the_rounding_margin():
    fn = dpjax.clipped_grad(lambda p, x: jnp.sum(p * x), clip_norm=jnp.bfloat16(1.0))
    x = np.random.default_rng(0).normal(size=(100, 1, 11))
    for row in x.astype(np.float32):
        assert np.linalg.norm(flatten(fn(jnp.zeros(11), 1e6 * row).grads)) <= 1.0


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("microbatch_size", [None, 2])
@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.slow
def test_microbatches_and_empty_batches_have_the_same_fields(size, microbatch_size):
    params, batch, loss, _ = model()
    rule = RULES["per_group"]
    fn = dpjax.clipped_grad(loss, rule=rule, microbatch_size=microbatch_size)
    got = fn(params, batch[:size])
    whole = clipped("per_group", "materialize", [1.0] * 4)
    np.testing.assert_allclose(got.group_norms, whole.group_norms[:size], rtol=1e-6)
    np.testing.assert_array_equal(got.clipped, whole.clipped[:size])
    assert got.counted.tolist() == [True] * size
    assert got.num_clipped.dtype == jnp.int32
    assert float(got.centered_count) == size / 2 - int(got.num_clipped)


@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize(
    ("clip_norms", "message"),
    [
        ({"embeding": 1.0, "layers": 1.0, "unused": 1.0}, "Did you mean 'embeding'"),
        (GROUPS | {"tables": 1.0}, "no parameter into it; the nearest, 'table', is in 'embedding'"),
    ],
)
def test_groups_that_do_not_fit_the_parameters(clip_norms, message, size):
    params, batch, loss, _ = model()
    fn = dpjax.clipped_grad(loss, rule=PerGroupClipping(group_of, clip_norms))
    with pytest.raises(ValueError, match=message):
        fn(params, batch[:size])


def test_paths_are_joined_with_dots():
    seen = []
    rule = PerGroupClipping(lambda path: seen.append(path) or "all", {"all": 1.0})
    params = {"layers": [{"kernel": jnp.ones(2)}, {"kernel": jnp.ones(2)}]}
    dpjax.clipped_grad(
        lambda p, x: x * sum(jnp.sum(leaf["kernel"]) for leaf in p["layers"]), rule=rule
    )(params, jnp.ones(2))
    assert set(seen) == {"layers.0.kernel", "layers.1.kernel"}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FlatClipping(0.0), ValueError, "clip_norm must be positive"),
        (lambda: FlatClipping(True), TypeError, "must be a number"),
        (lambda: FlatClipping(jnp.float32(-1)), ValueError, "positive"),
        (lambda: FlatClipping(jnp.ones(2)), TypeError, r"shape \(2,\)"),
        (lambda: FlatClipping(jnp.int32(1)), TypeError, "int32"),
        (lambda: AutomaticClipping(1.0, stability=0), ValueError, "stability must be positive"),
        (lambda: PerGroupClipping("w", {"w": 1.0}), TypeError, "function of a path"),
        (lambda: PerGroupClipping(group_of, [1.0]), TypeError, "must map group names"),
        (lambda: PerGroupClipping(group_of, {}), ValueError, "empty"),
        (lambda: PerGroupClipping(group_of, {"a": -1}), ValueError, r"clip_norms\['a'\]"),
        (lambda: dpjax.clipped_grad(abs), TypeError, "either clip_norm or rule"),
        (
            lambda: dpjax.clipped_grad(abs, clip_norm=1.0, rule=FlatClipping(1.0)),
            TypeError,
            "not both",
        ),
        (lambda: dpjax.clipped_grad(abs, rule=1.0), TypeError, r"FlatClipping\(1.0\)"),
    ],
)
def test_bad_rules(make, error, message):
    with pytest.raises(error, match=message):
        make()
