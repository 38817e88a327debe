"""The strategies without per-example gradients against a loop over examples."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from dpjax.privatize.structured.program import versions
from tests.support.slow import mark_slow
from tests.support.structures import STRUCTURES, build

FAST = ("one_backward", "two_backwards")


def row(batch, i):
    return jax.tree.map(lambda leaf: leaf[i], batch)


def flatten(tree):
    return np.concatenate([np.asarray(g, np.float64).ravel() for g in jax.tree.leaves(tree)])


@functools.cache
def loop(name):
    """Parameters, batch, loss, and the gradients of the examples as float64 rows."""
    params, batch, loss = build(name)
    gradient = jax.jit(jax.grad(loss))
    return (
        params,
        batch,
        loss,
        np.stack([flatten(gradient(params, row(batch, i))) for i in range(4)]),
    )


def clipped_sum(gradients, clip_norm, mask):
    norms = np.linalg.norm(gradients, axis=1)
    factors = np.minimum(1.0, clip_norm / np.maximum(norms, 1e-300)) * mask
    return factors @ gradients, norms * mask


@pytest.mark.quick_cases(22)
@pytest.mark.parametrize("strategy", FAST)
@pytest.mark.parametrize("name", STRUCTURES)
def test_equals_a_loop_over_examples(name, strategy):
    params, batch, loss, gradients = loop(name)
    norms = np.linalg.norm(gradients, axis=1)
    clip_norm = float(np.median(norms))
    mask = np.array([True, True, False, True])
    fn = jax.jit(dpjax.clipped_grad(loss, clip_norm=clip_norm, strategy=strategy))
    got = fn(params, batch, mask)
    total, norms = clipped_sum(gradients, clip_norm, mask)
    # Without structure both sum the same bfloat16 products, but the loop rounds each gradient.
    tolerance = 1e-2 if name == "computed_in_bfloat16" else 1e-5
    np.testing.assert_allclose(got.norms, norms, rtol=tolerance)
    assert np.linalg.norm(flatten(got.grads) - total) <= tolerance * np.linalg.norm(total)
    assert jax.tree.structure(got.grads) == jax.tree.structure(params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(got.grads))


@pytest.mark.quick_cases(4)
@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("strategy", FAST)
@pytest.mark.parametrize(
    ("name", "scale"),
    mark_slow(
        itertools.product(
            ["dense_network", "tied_scanned_rematerialised_decoder"], [1e-12, 1e-6, 1e6, 1e12]
        ),
        lambda name, scale: name.startswith("tied") and scale in (1e-6, 1e6),
    ),
)
def test_norms_neither_overflow_nor_vanish(name, scale, strategy):
    params, batch, loss, gradients = loop(name)

    def scaled(p, example):
        return scale * loss(p, example)

    clip_norm = scale * float(np.median(np.linalg.norm(gradients, axis=1)))
    got = jax.jit(dpjax.clipped_grad(scaled, clip_norm=clip_norm, strategy=strategy))(params, batch)
    total, norms = clipped_sum(scale * gradients, clip_norm, np.ones(4))
    np.testing.assert_allclose(got.norms, norms, rtol=1e-5)
    assert np.linalg.norm(flatten(got.grads) - total) <= 1e-5 * np.linalg.norm(total)


@pytest.mark.parametrize("strategy", FAST)
@pytest.mark.parametrize("name", ["dense_network", "take_clip", "recurrent_network", "experts"])
def test_an_example_that_is_not_finite_contributes_zero_and_is_counted(name, strategy):
    params, batch, loss, gradients = loop(name)

    def broken(p, example):
        index, example = example
        return loss(p, example) * jnp.where(index == 2, jnp.nan, 1.0)

    fn = jax.jit(dpjax.clipped_grad(broken, clip_norm=1e6, strategy=strategy))
    got = fn(params, (jnp.arange(4), batch))
    total = gradients[[0, 1, 3]].sum(0)
    assert np.linalg.norm(flatten(got.grads) - total) <= 1e-5 * np.linalg.norm(total)
    assert int(got.num_nonfinite) == 1


@pytest.mark.parametrize("strategy", FAST)
def test_infinite_activations_of_one_example_do_not_reach_the_others(strategy):
    params, batch, loss, gradients = loop("dense_network")
    batch = batch.at[1].set(jnp.inf)
    got = jax.jit(dpjax.clipped_grad(loss, clip_norm=1e6, strategy=strategy))(params, batch)
    total = gradients[[0, 2, 3]].sum(0)
    assert np.linalg.norm(flatten(got.grads) - total) <= 1e-5 * np.linalg.norm(total)


@pytest.mark.parametrize("strategy", FAST)
@pytest.mark.parametrize("offset", [np.nan, np.inf, -np.inf])
def test_a_finite_gradient_counts_whatever_the_loss_is(offset, strategy):
    params, batch, loss, gradients = loop("dense_network")
    fn = dpjax.clipped_grad(
        lambda p, x: loss(p, x) + jnp.float32(offset), clip_norm=0.1, strategy=strategy
    )
    got = jax.jit(fn)(params, batch)
    total, norms = clipped_sum(gradients, 0.1, np.ones(4))
    np.testing.assert_allclose(got.norms, norms, rtol=1e-5)
    assert np.linalg.norm(flatten(got.grads) - total) <= 1e-5 * np.linalg.norm(total)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("strategy", FAST)
@pytest.mark.parametrize("microbatch_size", [1, 3])
def test_microbatches_masks_and_aux(strategy, microbatch_size):
    params, batch, loss, gradients = loop("tied_scanned_rematerialised_decoder")
    fn = dpjax.clipped_grad(
        lambda p, x: (loss(p, x), {"ids": x}),
        clip_norm=0.1,
        strategy=strategy,
        microbatch_size=microbatch_size,
        has_aux=True,
    )
    mask = np.array([False, True, True, True])
    got = jax.jit(fn)(params, batch, mask)
    total, norms = clipped_sum(gradients, 0.1, mask)
    np.testing.assert_allclose(got.norms, norms, rtol=1e-5)
    assert np.linalg.norm(flatten(got.grads) - total) <= 1e-5 * np.linalg.norm(total)
    np.testing.assert_array_equal(got.aux["ids"], batch)
    np.testing.assert_allclose(got.losses[1], loss(params, batch[1]), rtol=1e-5)
    assert got.losses[0] == 0


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("strategy", FAST)
def test_no_array_of_examples_times_the_table(strategy):
    vocab, size, layers, examples, length = 311, 32, 2, 8, 6
    params = {"table": jnp.ones((vocab, size)), "w": jnp.ones((layers, size, size))}

    def loss(p, ids):
        @jax.checkpoint
        def layer(h, w):
            return h + jnp.tanh(h @ w), None

        h, _ = jax.lax.scan(layer, p["table"][ids], p["w"])
        return -jnp.mean(jax.nn.log_softmax(h @ p["table"].T)[jnp.arange(length), ids])

    fn = dpjax.clipped_grad(loss, clip_norm=1.0, strategy=strategy)
    batch = jnp.zeros((examples, length), jnp.int32)
    text = jax.jit(fn).lower(params, batch).compile().as_text()
    shapes = re.findall(r"\b[fsu]\d+\[([\d,]+)\]", text)
    largest = max(np.prod([int(n) for n in shape.split(",")]) for shape in shapes)
    assert largest < examples * vocab * size
    reference = dpjax.clipped_grad(loss, clip_norm=1.0, strategy="materialize")
    text = jax.jit(reference).lower(params, batch).compile().as_text()
    assert f"{examples},{vocab},{size}]" in text


@pytest.mark.slow
@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about the compiler of CPUs")
def test_two_backward_passes_of_a_residual_network_compile_to_little_more_code_than_one():
    """Cotangents are not computed again for each of their readers, from those of all layers."""
    layer = {"scale": jnp.ones(8), "up": jnp.ones((8, 8)), "down": jnp.ones((8, 8))}
    params, batch = [layer] * 12, jnp.ones((3, 5, 8))

    def loss(p, x):
        for one in p:
            h = x - jnp.mean(x, -1, keepdims=True)
            h *= one["scale"] * jax.lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-5)
            x = x + jnp.tanh(h @ one["up"]) @ one["down"]
        return jnp.sum(x**2)

    def ordinary(p, x):
        return jax.grad(lambda p: jnp.sum(jax.vmap(loss, (None, 0))(p, x)))(p)

    private = dpjax.clipped_grad(loss, clip_norm=1.0, strategy="two_backwards")
    ours, theirs = (
        jax.jit(fn).lower(params, batch).compile().as_text().count(" = ")
        for fn in (private, ordinary)
    )
    assert ours < 1.7 * theirs


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("strategy", ["auto", *FAST])
def test_an_unknown_version_of_jax_costs_memory_not_correctness(monkeypatch, strategy):
    params, batch, loss, gradients = loop("dense_network")
    monkeypatch.setattr(versions, "KNOWN_VERSIONS", ())
    monkeypatch.setattr(versions, "_failure", lambda *_: "it was planted")
    with pytest.warns(UserWarning, match="every per-example gradient"):
        got = dpjax.clipped_grad(loss, clip_norm=1.0, strategy=strategy)(params, batch)
    total, _ = clipped_sum(gradients, 1.0, np.ones(4))
    np.testing.assert_allclose(flatten(got.grads), total, rtol=1e-4, atol=1e-6)


def test_a_large_parameter_without_known_structure_is_named_once(caplog):
    params = {"kernel": jnp.ones((3, 256, 128))}

    def loss(p, x):
        dims = ("NWC", "WIO", "NWC")
        return jnp.sum(
            jax.lax.conv_general_dilated(x[None], p["kernel"], (1,), "SAME", dimension_numbers=dims)
        )

    fn = dpjax.clipped_grad(loss, clip_norm=1.0, strategy="two_backwards")
    for _ in range(2):
        jax.eval_shape(fn, params, jnp.ones((2, 4, 256)))
    (record,) = caplog.records
    assert "['kernel']" in record.getMessage()
    assert "conv_general_dilated" in record.getMessage()


def test_a_parameter_that_is_a_small_share_of_all_is_not_named(caplog):
    params = {"scales": jnp.ones((32, 2048)), "w": jnp.ones((2048, 8192))}

    def loss(p, x):
        return jnp.sum(jax.lax.map(lambda scale: jnp.sum(jnp.sin(x * scale) @ p["w"]), p["scales"]))

    fn = dpjax.clipped_grad(loss, clip_norm=1.0, strategy="two_backwards")
    jax.eval_shape(fn, params, jnp.ones((2, 4, 2048)))
    assert not caplog.records


def test_explain_says_what_was_found():
    params, batch, loss, _ = loop("tied_scanned_rematerialised_decoder")
    found = dpjax.explain(loss, params, batch)
    by_name = {parameter.name: parameter.terms for parameter in found.parameters}
    assert [term.description for term in by_name["['table']"]] == [
        "contraction of 7, 11 × 6",
        "7 rows of 6 into 11",
    ]
    assert [term.description for term in by_name["['w']"]] == ["3 × contraction of 7, 6 × 6"]
    assert by_name["['s']"][0].method == "dense"
    assert found.choice in str(found)
    assert "auto allows at once" in str(found)
    assert set(found.strategies) == {"non_private", "materialize", *FAST}


def test_auto_takes_what_fits():
    def loss(p, x):
        return jnp.sum(jnp.tanh(x @ p["w"]) @ p["v"])

    def choice(size, length, examples, device_memory=2**35):
        params = {name: jax.ShapeDtypeStruct((size, size), jnp.float32) for name in "wv"}
        batch = jax.ShapeDtypeStruct((examples, length, size), jnp.float32)
        return dpjax.explain(loss, params, batch, device_memory=device_memory).choice

    assert choice(1024, 16, 32) == "one_backward"
    assert choice(1024, 16, 2**17) == "two_backwards"
    assert choice(1024, 16, 32, device_memory=2**24) == "two_backwards"
    assert choice(4, 64, 32) == "one_backward"
    assert choice(20, 20, 32) == "materialize"


@pytest.mark.parametrize("strategy", FAST)
@pytest.mark.parametrize("tied", [False, True])
def test_where_tokens_nearly_cancel_no_norm_is_too_small(strategy, tied):
    """Gram forms lose precision there; whoever underestimates a norm breaks the guarantee."""
    size, length, examples = 64, 6, 32
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, length, size))
    # Three pairs of tokens that differ by one part in 10^3 to 10^5, with opposite cotangents.
    closeness = 10.0 ** -rng.uniform(3, 5, size=(examples, 1, 1))
    x[:, 1::2] = x[:, ::2] * (1 + closeness)
    params = {"w": jnp.asarray(rng.normal(size=(size, size)), jnp.float32)}
    signs = jnp.asarray(rng.normal(size=(3, size)), jnp.float32)
    weights = jnp.stack([signs, -signs], axis=1).reshape(length, size)

    def loss(p, x):
        picked = jnp.sum(p["w"][jnp.arange(4)]) if tied else 0.0
        return jnp.sum((x @ p["w"]) * weights) + 1e-4 * picked

    batch = jnp.asarray(x, jnp.float32)
    gradients = [
        np.asarray(batch[i], np.float64).T @ np.asarray(weights, np.float64) for i in range(32)
    ]
    if tied:
        for gradient in gradients:
            gradient[:4] += 1e-4
    norms = np.array([np.linalg.norm(gradient) for gradient in gradients])
    got = jax.jit(dpjax.clipped_grad(loss, clip_norm=1.0, strategy=strategy))(params, batch)
    assert np.all(np.asarray(got.norms) >= norms * (1 - 1e-4))
