"""Integer and boolean parameters: the loss sees them, and nothing else takes notice of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD
from flax import nnx

import dpjax
from tests.support.structures import build

STRATEGIES = ("materialize", "one_backward", "two_backwards", "auto")
MASK = np.array([True, False, True, True])
RULES = {
    "flat": dpjax.FlatClipping(0.3),
    "per_group": dpjax.PerGroupClipping(
        lambda path: "table" if path == "layers.table" else "others", {"table": 0.2, "others": 0.1}
    ),
}
FIXED = {
    "vocabulary": jnp.array([2, 0, 1, 2, 4, 3, 2**24 + 1], jnp.int32),
    "even": jnp.array([True, False] * 3),
    "calls": jnp.uint8(200),
}


def model():
    """Trained parameters, a batch, a loss that is given `FIXED` too, one that closes over it."""
    rng = np.random.default_rng(0)
    shapes = {"table": (5, 6), "w": (6, 6)}
    layers = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    batch = jnp.asarray(rng.integers(0, 6, (4, 5)))

    def loss(p, ids):
        rows = p["layers"]["table"][p["fixed"]["vocabulary"][ids]]
        h = jnp.where(p["fixed"]["even"], rows, jnp.sin(rows)) @ p["layers"]["w"]
        return jnp.sum(jnp.tanh(h)) * p["fixed"]["calls"] / 100

    def closed(p, ids):
        return loss(p | {"fixed": FIXED}, ids)

    return {"layers": layers}, batch, loss, closed


def check_zeros(grads):
    for zeros, leaf in zip(jax.tree.leaves(grads), jax.tree.leaves(FIXED), strict=True):
        assert (zeros.shape, zeros.dtype) == (leaf.shape, leaf.dtype)
        assert not zeros.any()


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(("rule", "microbatch_size"), [("flat", None), ("per_group", 3)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_result_is_that_of_a_loss_that_closes_over_them(strategy, rule, microbatch_size):
    params, batch, loss, closed = model()
    got, want = (
        jax.jit(
            dpjax.clipped_grad(
                fn, rule=RULES[rule], strategy=strategy, microbatch_size=microbatch_size
            )
        )(own, batch, MASK)
        for fn, own in [(loss, params | {"fixed": FIXED}), (closed, params)]
    )
    check_zeros(got.grads.pop("fixed"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), got, want)
    assert int(want.num_clipped) == 3


def test_an_empty_batch():
    params, batch, loss, _ = model()
    got = dpjax.clipped_grad(lambda p, x: (loss(p, x), x), clip_norm=1.0, has_aux=True)(
        params | {"fixed": FIXED}, batch[:0]
    )
    check_zeros(got.grads["fixed"])
    assert got.aux.shape == (0, 5)


def test_no_noise_is_added_whatever_they_hold_and_that_of_the_others_stays():
    total, _, _, _ = model()
    release = {
        "noise_keys": dpjax.RunKey.from_seed(1).noise_keys(0),
        "mechanism": DPSGD(
            num_units=100, expected_batch_size=10, noise_multiplier=1.0, num_steps=5
        ),
        "clip_norm": 1.0,
    }
    mean = dpjax.noisy_mean(total | {"fixed": FIXED}, **release)
    check_zeros(mean.pop("fixed"))
    jax.tree.map(np.testing.assert_array_equal, mean, dpjax.noisy_mean(total, **release))


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.identity(),
        optax.masked(
            optax.adamw(0.1),
            lambda tree: jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jnp.floating), tree),
        ),
    ],
    ids=["none", "masked"],
)
def test_a_training_step_leaves_them_as_they_are(optimizer):
    params, batch, loss, _ = model()
    params = params | {"fixed": FIXED}
    fn = dpjax.clipped_grad(loss, clip_norm=0.3)

    @jax.jit
    def step(params, state, noise_keys):
        total = jax.tree.map(jnp.zeros_like, params)
        for _ in range(2):
            total = jax.tree.map(jnp.add, total, fn(params, batch).grads)
        mean = dpjax.noisy_mean(
            total,
            noise_keys,
            mechanism=DPSGD(
                num_units=100, expected_batch_size=8, noise_multiplier=1.0, num_steps=5
            ),
            clip_norm=fn.clip_norm,
        )
        updates, _ = optimizer.update(mean, state, params)
        return optax.apply_updates(params, updates)

    after = step(params, optimizer.init(params), dpjax.RunKey.from_seed(2).noise_keys(0))
    jax.tree.map(np.testing.assert_array_equal, after["fixed"], FIXED)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, params)
    assert not np.array_equal(after["layers"]["w"], params["layers"]["w"])


def test_explain_tells_of_the_others_from_shapes_alone():
    params, batch, loss, closed = model()
    whole = params | {"fixed": FIXED}
    shapes = jax.eval_shape(lambda: (whole, batch))
    found, expected = dpjax.explain(loss, *shapes), dpjax.explain(closed, params, batch)
    assert found.parameters == expected.parameters
    assert found.choice == expected.choice


@pytest.mark.parametrize("strategy", STRATEGIES[:2])
def test_modules_that_are_pytrees_keep_their_structure(strategy):
    modules, batch, loss = build("module_that_is_a_pytree")
    modules[1].bias = jnp.arange(3)
    fn = dpjax.clipped_grad(loss, clip_norm=0.1, strategy=strategy)
    grads = jax.jit(fn)(modules, batch).grads
    assert jax.tree.structure(grads) == jax.tree.structure(modules)
    assert grads[1].bias.dtype == jnp.int32 and not grads[1].bias.any()
    assert np.all(grads[1].weight != 0)


@pytest.mark.parametrize("strategy", STRATEGIES[:2])
def test_the_state_of_a_module_keeps_its_structure(strategy):
    class Net(nnx.Module):
        def __init__(self):
            self.dense = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
            self.calls = nnx.Variable(jnp.array(5))

        def __call__(self, x):
            return self.calls[...] * self.dense(x)

    graphdef, state = nnx.split(Net())
    fn = dpjax.clipped_grad(
        lambda p, x: jnp.sum(nnx.merge(graphdef, p)(x)), clip_norm=0.1, strategy=strategy
    )
    grads = jax.jit(fn)(state, jnp.ones((2, 3))).grads
    assert jax.tree.structure(grads) == jax.tree.structure(state)
    assert grads["calls"][...] == 0
    np.testing.assert_allclose(optax.tree.norm(grads["dense"]), 0.2, rtol=1e-5)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"w": jnp.ones(3), "z": jnp.ones(3, complex)}, r"\['z'\] has dtype complex64"),
        ({"w": jnp.ones(3), "key": jax.random.key(0)}, r"\['key'\] has dtype key<fry>"),
        ({"w": jnp.arange(3), "b": True}, "nothing to train"),
    ],
)
def test_parameters_that_are_refused(params, message):
    with pytest.raises(TypeError, match=message):
        dpjax.clipped_grad(lambda p, x: jnp.sum(p["w"] * x), clip_norm=1.0)(params, jnp.ones(2))
