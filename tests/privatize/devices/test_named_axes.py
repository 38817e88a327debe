"""Named axes around a clipped gradient: it is that of one example, or it is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import dpjax
from dpjax.privatize.structured import clipped_sums
from tests.support.slow import mark_slow
from tests.support.structures import build
from tests.support.structures_in_loops import loss_over_tied_slices

STRATEGIES = ("materialize", "one_backward", "two_backwards", "auto")


def on_one_device(function, in_specs, out_specs, **options):
    """Types inside are those of any number of devices."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("d",))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, **options)
    return jax.jit(mapped)


def tied_head_in_slices():
    """As in `structures`, but what the loop carries varies from the start, which JAX demands."""
    rng = np.random.default_rng(0)
    params = {"table": rng.normal(size=(11, 6)), "w": rng.normal(size=(6, 6))}

    loss = loss_over_tied_slices(lambda h: 0.0 * h[:, 0])
    return jax.tree.map(jnp.float32, params), jnp.int32(rng.integers(0, 11, (4, 7))), loss


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("name", "microbatch_size"),
    mark_slow(
        [
            ("tied_scanned_rematerialised_decoder", 2),
            ("tied_head_in_slices", None),
            ("reverse_scan_unrolled", None),
            ("computed_in_bfloat16", 2),
        ],
        lambda name, microbatch_size: name.startswith("tied"),
    ),
)
def test_inside_shard_map_as_outside(monkeypatch, name, microbatch_size, strategy):
    # So small that norms are taken in slices, which are loops too.
    monkeypatch.setattr(clipped_sums, "DEFAULT_BUDGET_VALUES", 64)
    params, batch, loss = tied_head_in_slices() if name == "tied_head_in_slices" else build(name)
    mask = jnp.asarray([True, True, False, True])
    fn = dpjax.clipped_grad(loss, clip_norm=0.5, strategy=strategy, microbatch_size=microbatch_size)

    def step(params, batch, mask):
        got = fn(params, batch, mask)
        return jax.lax.psum(got.grads, "d"), got.norms, got.losses, got.counted

    rows = P("d")
    inside = on_one_device(step, (P(), rows, rows), (P(), rows, rows, rows))
    grads, *of_rows = inside(params, batch, mask)
    right = jax.jit(fn)(params, batch, mask)
    for got, want in zip(
        jax.tree.leaves((grads, of_rows)),
        jax.tree.leaves((right.grads, [right.norms, right.losses, right.counted])),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("varies", "strategy"),
    mark_slow(
        itertools.product(["mask", "clip norm"], STRATEGIES),
        lambda varies, strategy: (varies, strategy) == ("mask", "materialize"),
    ),
)
def test_what_varies_beside_the_batch(varies, strategy):
    """Every device has the same examples, and counts or clips others of them."""
    x = jax.random.normal(jax.random.key(0), (4, 5, 3))
    mask, clip_norm = jnp.asarray([True, False, True, True]), jnp.asarray([0.7], jnp.float32)

    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w) ** 2)

    def step(x, mask, clip_norm):
        got = dpjax.clipped_grad(loss, clip_norm=clip_norm[0], strategy=strategy)(w, x, mask)
        return jax.lax.psum(got.grads, "d")

    w = jnp.eye(3)
    specs = (P(), P("d") if varies == "mask" else P(), P("d") if varies == "clip norm" else P())
    right = dpjax.clipped_grad(loss, clip_norm=0.7, strategy=strategy)(w, x, mask).grads
    for check in (True, False):
        got = on_one_device(step, specs, P(), check_vma=check)(x, mask, clip_norm)
        np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_a_mesh_of_which_one_axis_stays_automatic(microbatch_size, strategy):
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("d", "m"))
    fn = dpjax.clipped_grad(
        lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 2),
        clip_norm=0.7,
        strategy=strategy,
        microbatch_size=microbatch_size,
    )
    x = jax.random.normal(jax.random.key(0), (4, 5, 3))
    step = jax.shard_map(
        lambda w, x: jax.lax.psum(fn(w, x).grads, "d"),
        mesh=mesh,
        in_specs=(P(), P("d")),
        out_specs=P(),
        axis_names={"d"},
    )
    right = fn(jnp.eye(3), x).grads
    np.testing.assert_allclose(jax.jit(step)(jnp.eye(3), x), right, rtol=1e-5, atol=1e-6)


def mean_over(axis):
    return lambda w, x: jax.lax.pmean(jnp.sum(jnp.tanh(x @ w)), axis)


def gathered(w, x):
    return jnp.sum(jnp.tanh(x @ jax.lax.all_gather(w, "d", tiled=True)))


def handed_on(w, x):
    return jnp.sum(jnp.tanh(jax.lax.ppermute(x @ w, "d", [(0, 0)])))


@jax.custom_vjp
def summed_backwards(w):
    return w


summed_backwards.defvjp(lambda w: (w, None), lambda _, g: (jax.lax.psum(g, "d"),))


def custom_rule(w, x):
    return jnp.sum(jnp.tanh(x @ summed_backwards(w)))


def in_a_loop(w, x):
    def step(h, _):
        return jnp.tanh(h @ w) + jax.lax.psum(h, "d"), None

    return jnp.sum(jax.lax.scan(step, x, None, length=2)[0])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("loss", [mean_over("d"), gathered, handed_on, custom_rule, in_a_loop])
def test_a_gradient_that_is_exchanged_between_devices_is_refused(loss, strategy):
    fn = dpjax.clipped_grad(loss, clip_norm=1.0, strategy=strategy)
    step = on_one_device(lambda w, x: fn(w, x).norms, (P(), P("d")), P("d"), check_vma=False)
    with pytest.raises(ValueError, match="exchanges values over the axis 'd'"):
        step(jnp.eye(3), jnp.ones((2, 4, 3)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_statistics_over_an_axis_of_vmap_are_refused(strategy):
    fn = dpjax.clipped_grad(mean_over("replicas"), clip_norm=1.0, strategy=strategy)
    step = jax.vmap(lambda x: fn(jnp.eye(3), x).norms, axis_name="replicas")
    with pytest.raises(ValueError, match="exchanges values over the axis 'replicas'"):
        step(jnp.ones((2, 2, 4, 3)))


def test_statistics_over_the_batch_are_refused():
    fn = dpjax.clipped_grad(mean_over("batch"), clip_norm=1.0)
    with pytest.raises(ValueError, match="called for one example alone"):
        fn(jnp.eye(3), jnp.ones((2, 4, 3)))


@pytest.mark.parametrize(
    "strategy", mark_slow(STRATEGIES, lambda strategy: strategy == "materialize")
)
def test_an_axis_inside_the_loss_and_a_position_on_one_outside_are_allowed(strategy):
    def loss(w, x):
        heads = jax.vmap(lambda x: x - jax.lax.pmean(x, "tokens"), axis_name="tokens")(x)
        return jnp.sum(jnp.tanh(heads @ w)) * (2.0 + jax.lax.axis_index("replicas"))

    fn = dpjax.clipped_grad(loss, clip_norm=1e6, strategy=strategy)
    x = jax.random.normal(jax.random.key(0), (2, 2, 4, 3))
    got = jax.vmap(lambda x: fn(jnp.eye(3), x).norms, axis_name="replicas")(x)
    want = [
        [
            (2.0 + i)
            * jnp.linalg.norm(
                jax.grad(lambda w, x=x: jnp.sum(jnp.tanh((x - x.mean(0)) @ w)))(jnp.eye(3))
            )
            for x in rows
        ]
        for i, rows in enumerate(x)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_mesh_that_the_loss_opens_is_its_own(strategy):
    mesh = Mesh(np.array(jax.devices()[:1]), ("tokens",))

    def loss(w, x):
        rows = P("tokens")
        add = jax.shard_map(
            lambda x: jax.lax.psum(jnp.sum(x, 0), "tokens"), mesh=mesh, in_specs=rows, out_specs=P()
        )
        return jnp.sum(jnp.tanh(add(x) @ w))

    x = jax.random.normal(jax.random.key(0), (2, 4, 3))
    fn = jax.jit(dpjax.clipped_grad(loss, clip_norm=1e6, strategy=strategy))
    right = [jnp.linalg.norm(jax.grad(loss)(jnp.eye(3), one)) for one in x]
    np.testing.assert_allclose(fn(jnp.eye(3), x).norms, right, rtol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pmap_clips_each_example(strategy):
    fn = dpjax.clipped_grad(lambda w, x: jnp.sum(x @ w), clip_norm=1.0, strategy=strategy)
    tokens = jnp.stack([200 * jnp.ones((4, 3)), -100 * jnp.ones((4, 3))])

    def step(w, x):
        got = fn(w, x)
        return jax.lax.psum(got.grads, "d"), got.norms

    mapped = jax.pmap(step, axis_name="d", in_axes=(None, 0), devices=jax.devices()[:1])
    grads, norms = mapped(jnp.eye(3), tokens[None])
    np.testing.assert_allclose(norms[0], [2400, 1200], rtol=1e-5)
    np.testing.assert_allclose(grads, jnp.zeros((1, 3, 3)), atol=1e-4)
