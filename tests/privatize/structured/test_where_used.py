"""What is changed where it is used comes to what is changed at once, in loops slice by slice."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from dpjax.privatize import UnreadableProgramError, change_where_used
from dpjax.privatize.structured.program import where_used

LAYERS, WIDTH = 3, 4


@dataclasses.dataclass(frozen=True)
class Scaling:
    """A change that notes the shapes that it is applied to."""

    factor: float
    shapes: list
    is_for_slices: bool = True

    def __call__(self, x):
        self.shapes.append(x.shape)
        return x * self.factor

    def of_slice(self):
        return self if self.is_for_slices else None


def stacked(params, x):
    """Layers in a loop; one matrix is read by each iteration as a whole."""

    def layer(hidden, of_layer):
        hidden = jnp.tanh(hidden @ of_layer["w"] + of_layer["b"]) @ params["shared"]
        return hidden, hidden.sum()

    hidden, sums = jax.lax.scan(layer, x @ params["first"], params["layers"])
    return hidden.sum() + sums.sum() + params["layers"]["b"][0].sum()


def nested(params, x):
    """Loops in a loop, backwards, and calls around and inside them."""

    @jax.jit
    def inner(hidden, matrices):
        return jax.lax.scan(lambda h, w: (jnp.sin(h @ w), None), hidden, matrices, reverse=True)[0]

    @jax.jit
    def outer(hidden, matrices):
        def pair(h, two):
            return inner(h, jnp.stack([two, two.T])) + inner(h, two[None]), h[0]

        return jax.lax.scan(jax.checkpoint(pair), hidden, matrices)

    hidden, firsts = outer(x @ params["first"], params["layers"]["w"])
    return hidden.sum() + firsts.sum() + params["layers"]["b"].sum() * params["shared"][0, 0]


def taken_twice(params, x):
    """A matrix that a loop takes whole and another slice by slice."""
    first = jax.lax.scan(lambda h, w: (h @ w, None), x, params["layers"]["w"])[0]
    last = jax.lax.scan(lambda h, _: (h @ params["layers"]["w"][1], None), x, None, length=2)[0]
    return (first + last).sum()


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(0, 0.5, shape), jnp.float32)  # noqa: E731
    return {
        "first": normal(WIDTH, WIDTH),
        "layers": {"w": normal(LAYERS, WIDTH, WIDTH), "b": normal(LAYERS, WIDTH)},
        "shared": normal(WIDTH, WIDTH),
    }


def changing(function, changes):
    return lambda *args: change_where_used(function, args, changes)


@pytest.mark.parametrize("function", [stacked, nested, taken_twice])
def test_values_and_gradients_equal_those_of_changed_arrays(params, function):
    x = jnp.linspace(-1, 1, WIDTH)
    factors = jax.tree.unflatten(jax.tree.structure(params), [2.0, 0.5, 3.0, -1.0])
    changes = [*(Scaling(factor, []) for factor in jax.tree.leaves(factors)), None]

    def at_once(params, x):
        return function(jax.tree.map(jnp.multiply, params, factors), x)

    late = changing(function, changes)
    both = jnp.stack([x, -x])
    for transformed, given in [
        (jax.value_and_grad, x),
        (jax.jit, x),
        (lambda f: jax.vmap(f, (None, 0)), both),
    ]:
        expected, found = transformed(at_once)(params, given), transformed(late)(params, given)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, expected)


def test_stacked_arrays_are_changed_slice_by_slice(params):
    changes = [Scaling(1.0, []) for _ in range(4)]
    changing(stacked, [*changes, None])(params, jnp.ones(WIDTH))
    first, biases, matrices, shared = (set(change.shapes) for change in changes)
    # The biases are read outside too, as a whole.
    assert biases == {(WIDTH,), (LAYERS, WIDTH)}
    assert first == matrices == shared == {(WIDTH, WIDTH)}


def test_stacked_arrays_that_are_cast_before_the_loop_are_changed_slice_by_slice(params):
    def loss(params, x):
        matrices = params["layers"]["w"].astype(jnp.bfloat16)
        return jax.lax.scan(lambda h, w: (jnp.sin(h @ w), None), x, matrices)[0].sum()

    change, x = Scaling(2.0, []), jnp.ones(WIDTH, jnp.bfloat16)
    found = changing(loss, [None, None, change, None, None])(params, x)
    assert set(change.shapes) == {(WIDTH, WIDTH)}
    doubled = params | {"layers": {"w": 2 * params["layers"]["w"]}}
    np.testing.assert_array_equal(found, loss(doubled, x))


def test_what_cannot_be_changed_in_slices_is_changed_before_the_loop(params):
    change = Scaling(2.0, [], is_for_slices=False)
    changing(taken_twice, [None, None, change, None, None])(params, jnp.ones(WIDTH))
    assert set(change.shapes) == {(LAYERS, WIDTH, WIDTH)}


def test_unused_arrays_are_not_changed_and_returned_ones_are(params):
    unused, returned = Scaling(2.0, []), Scaling(3.0, [])
    function = changing(lambda a, b: {"b": b, "one": jnp.ones(())}, [unused, returned])
    found = function(params["first"], params["shared"])
    np.testing.assert_array_equal(found["b"], 3 * params["shared"])
    assert unused.shapes == []


def test_moves_wait_until_the_moved_array_is_used(params):
    """A cast that comes before the change in the program comes after it, and before the use."""
    change = Scaling(2.0, [])

    def cast_before(params, x):
        matrix = params["first"].astype(jnp.bfloat16).T
        return x @ matrix, matrix

    function = changing(cast_before, [change, None, None, None, None])
    x = jnp.ones(WIDTH, jnp.bfloat16)
    expected, found = cast_before(params | {"first": 2 * params["first"]}, x), function(params, x)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    text = str(jax.make_jaxpr(function)(params, x))
    assert text.index("mul") < text.index("new_dtype=bfloat16")


class Rounding(Scaling):
    """A change of moves alone, which are done again in the backward pass as gathering is."""

    def __call__(self, x):
        return x.astype(jnp.bfloat16).astype(x.dtype)


@pytest.mark.parametrize("again", [False, True])
def test_no_changed_slice_is_kept_for_the_backward_pass(params, again):
    change = (Rounding if again else Scaling)(2.0, [])

    def changed(params):
        return change_where_used(lambda p: stacked(p, jnp.ones(WIDTH)), (params,), [change] * 4)

    kept = [np.asarray(x) for x in jax.tree.leaves(jax.vjp(changed, params)[1])]
    matrices = [np.asarray(change(leaf)) for leaf in jax.tree.leaves(params)]
    found = [any(x.shape == m.shape and (x == m).all() for x in kept) for m in matrices]
    # Biases and the first matrix: no gradient needs them. What each iteration reads is kept.
    assert found == [False, False, not again, True]


def test_a_loop_that_cannot_be_read_is_given_changed_arrays(params, monkeypatch):
    def refuse(_):
        raise UnreadableProgramError("planted")

    monkeypatch.setattr(where_used, "loop_arity", refuse)
    change, x = Scaling(2.0, []), jnp.ones(WIDTH)
    found = changing(taken_twice, [None, None, change, None, None])(params, x)
    assert set(change.shapes) == {(LAYERS, WIDTH, WIDTH)}
    doubled = params | {"layers": {"w": 2 * params["layers"]["w"], "b": params["layers"]["b"]}}
    np.testing.assert_allclose(found, taken_twice(doubled, x), rtol=1e-6)


class Placing(Scaling):
    """As gathering: a sharding constraint, here to the one device that there is."""

    def __call__(self, x):
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.lax.with_sharding_constraint(x, device)


def in_chunks(params, x):
    """As a loss that holds few logits at once."""

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def add(total, rows):
        return total + jnp.exp(x @ rows.T).sum(), None

    total, _ = jax.lax.scan(add, 0.0, params["w"][:4].reshape(2, 2, -1))
    return jnp.log(total + jax.checkpoint(lambda rows: jnp.exp(x @ rows.T).sum())(params["w"][4:]))


@pytest.mark.parametrize(
    "loss",
    [
        lambda p, x: jnp.tanh(x @ (p["w"][:4] * 0.5)).sum(),
        lambda p, x: jnp.tanh(x @ p["stack"][1]).sum(),
        lambda p, x: sum(jnp.tanh(x @ part).sum() for part in jnp.split(p["stack"][0], 2, axis=1)),
        lambda p, x: jax.lax.scan(lambda h, w: (jnp.sin(h @ -w), None), x, p["stack"])[0].sum(),
        in_chunks,
    ],
    ids=["scaled", "one of a stack", "split", "in a loop", "chunks"],
)
def test_gradients_keep_the_structure_that_they_have_without_changes(loss):
    params = {"stack": jnp.ones((3, 4, 4)), "w": jnp.ones((6, 4))}
    changed = changing(loss, [Placing(1.0, []), Placing(1.0, []), None])
    plain, found = (dpjax.explain(f, params, jnp.ones((2, 6, 4))) for f in (loss, changed))
    terms = [[term.description for term in each.terms] for each in plain.parameters]
    assert [[term.description for term in each.terms] for each in found.parameters] == terms
    assert "contraction" in str(terms)


def test_a_loss_that_writes_into_an_array_may(params):
    def loss(params, x):
        reference = jax.new_ref(params["first"])
        reference[...] *= x[0]
        return reference[...].sum()

    changed = changing(loss, [Placing(1.0, [])] * 4 + [None])
    x = jnp.full(WIDTH, 3.0)
    np.testing.assert_allclose(changed(params, x), loss(params, x), rtol=1e-6)
