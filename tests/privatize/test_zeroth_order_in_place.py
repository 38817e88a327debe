"""Parameters that are moved in place: they come back bit for bit, or nothing is released."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.privatize.steps import blocks, grid, zeroth_order_steps
from dpjax.privatize.steps.directions import Directions
from tests.privatize.test_zeroth_order import make
from tests.support.private_loop import CLIP_NORM, SIZE, make_params, take

# Of test_values_that_are_hard: from the smallest to the largest that float32 has.
SCALES = (0.0, 1e-38, 1e-20, 1e-4, 1.0, 0.99999994, 2.0, 1e4, 1e20, 3e38)


def run_in_place(private, step, params, skip=0):
    total, params = private.begin_in_place(jax.tree.map(jnp.array, params), step)
    start = jax.tree.map(np.array, params)
    for rows, mask in list(private.batches(step, microbatch_size=SIZE))[skip:]:
        total, params = private.add_in_place(total, params, take(rows), mask)
    return total, start, params


def bits_of(tree):
    return [np.asarray(leaf).view(np.uint32) for leaf in jax.tree.leaves(tree)]


def assert_same_bits(left, right):
    for a, b in zip(bits_of(left), bits_of(right), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("compilations_count")
def test_parameters_come_back_and_sums_are_those_of_a_copy():
    private = make()
    for step in range(2):
        total, start, params = run_in_place(private, step, make_params())
        assert_same_bits(params, start)
        copied = private.zeros(params, step)
        for rows, mask in private.batches(step, microbatch_size=SIZE):
            copied = private.add(copied, params, take(rows), mask)
        apart = np.abs(np.asarray(total.grads) - np.asarray(copied.grads))
        assert apart.max() * CLIP_NORM / private.noise.grid.resolution < 2e-3
        assert int(total.num_records) == int(copied.num_records)
        assert bool(total.is_restored)
        private.release(total, step)
    programs = private._compiled_begin, private._compiled_add_in_place
    assert [program._cache_size() for program in programs] == [1, 1]


def test_rounding_does_not_see_the_batch():
    """A step without records starts from the same parameters as one with some."""
    private, params = make(), make_params()
    everyone, nobody = (run_in_place(private, 0, params, skip)[2] for skip in (0, 10**6))
    assert_same_bits(everyone, nobody)


@pytest.mark.parametrize("smoothing", [1e-12, 1e-3, 1e4])
def test_values_that_are_hard(smoothing, monkeypatch):
    """Whatever the weights are, no sum leaves the grid."""
    monkeypatch.setattr(blocks, "_MOST_ENTRIES", 100)
    rng = np.random.default_rng(0)
    params = {
        str(scale): jnp.asarray(scale * rng.uniform(-1, 1, (7, 23)), jnp.float32)
        .at[0, :2]
        .set(jnp.float32([scale, -scale]))
        for scale in SCALES
    }
    params |= {"row": jnp.ones(101), "scalar": jnp.float32(-3.0), "count": jnp.array([3, 4])}
    params |= {"nan": jnp.array([1.0, jnp.nan, 0.1]), "inf": jnp.array([jnp.inf, 0.3])}

    @jax.jit
    def walk(params):
        units = grid.units_of(params, smoothing)
        start = grid.on_grid(params, units, jax.random.key(0))
        where = Directions.of(params, jax.random.key(1), 1)
        where = Directions(where.key, 1, where.leaves, where.treedef, units)

        def move(params, times):
            params = where.moved_on_grid(params, jnp.int32(0), smoothing, times)
            return params, params

        end, places = jax.lax.scan(move, start, jnp.array([1.0, -2.0, 1.0]))
        return units, start, places, end

    units, start, places, end = walk(params)
    assert_same_bits(end, start)
    names = [name for name in sorted(params) if name != "count"]
    for name, unit in zip(names, units, strict=True):
        unit, before = float(unit), np.asarray(params[name], np.float64)
        if name in ("nan", "inf"):
            assert unit == 0
            np.testing.assert_array_equal(start[name], params[name])
            np.testing.assert_array_equal(places[name][0], params[name])
            continue
        assert np.log2(unit) % 1 == 0
        assert np.abs(np.asarray(start[name], np.float64) - before).max() < unit
        up, down = (np.asarray(places[name][i], np.float64) for i in (0, 1))
        for place in (up, down):
            assert np.all(place / unit % 1 == 0) and np.abs(place).max() <= 2**24 * unit
        # Both lie equally far from the start, about φ where the grid can tell.
        middle = np.asarray(start[name], np.float64)
        np.testing.assert_array_equal(up - middle, middle - down)
        assert np.abs(up - middle).max() <= 6 * smoothing + unit


def test_rounding_is_right_in_the_mean():
    params = jnp.float32([1.0, 0.3, -0.3, 0.0, 2e-8])
    units = grid.units_of(params, 1e-3)
    keys = jax.random.split(jax.random.key(0), 4000)
    rounded = jax.jit(jax.vmap(lambda key: grid.on_grid(params, units, key)))(keys)
    unit = float(units[0])
    off = (np.asarray(rounded, np.float64) - np.asarray(params, np.float64)) / unit
    assert np.abs(off).max() < 1
    np.testing.assert_allclose(off.mean(0), 0, atol=5 * 0.5 / 4000**0.5)
    again = jax.jit(grid.on_grid)(rounded[0], units, keys[1])
    np.testing.assert_array_equal(again, rounded[0])


def test_a_single_bit_is_noticed():
    params = make_params()
    before = int(grid.fingerprint(params))
    for place in ((0, 0), (4, 2)):
        changed = params["w"].at[place].set(np.nextafter(params["w"][place], np.float32(9)))
        assert int(grid.fingerprint(params | {"w": changed})) != before
    swapped = params["w"].at[0, 0].set(params["w"][0, 1]).at[0, 1].set(params["w"][0, 0])
    assert int(grid.fingerprint(params | {"w": swapped})) != before


def test_what_does_not_come_back_is_not_released(monkeypatch):
    """Without the grid rounding stays behind."""
    monkeypatch.setattr(zeroth_order_steps, "on_grid", lambda params, units, key: params)
    # So far away that sums have other exponents than weights.
    private = make(smoothing=1.0)
    total, start, params = run_in_place(private, 0, make_params())
    assert any(np.any(a != b) for a, b in zip(bits_of(params), bits_of(start), strict=True))
    with pytest.raises(RuntimeError, match="did not come back bit for bit"):
        private.release(total, 0)


def test_misuse_is_refused():
    private, params = make(), make_params()
    ((rows, mask), *_) = private.batches(0, microbatch_size=SIZE)
    with pytest.raises(ValueError, match="total is from zeros"):
        private.add_in_place(private.zeros(params, 0), params, take(rows), mask)
    with pytest.raises(TypeError, match=r"must be float32, got bfloat16 for params\['b'\]"):
        private.begin_in_place(params | {"b": params["b"].astype(jnp.bfloat16)}, 0)
    total, params = private.begin_in_place(params, 0)
    with pytest.raises(ValueError, match="another private gradient"):
        make().add_in_place(total, params, take(rows), mask)


@pytest.mark.slow
@pytest.mark.usefixtures("full_optimisation")
def test_memory_is_that_of_inference():
    """Of a scanned model with a tied table, all of it trained."""
    width, vocab = 128, 4096

    def loss(params, ids):
        def layer(x, weights):
            return x + jax.nn.gelu(x @ weights["up"]) @ weights["down"], None

        x, _ = jax.lax.scan(layer, params["table"][ids], params["layers"])
        scores = jax.nn.log_softmax(x @ params["table"].T)
        return -jnp.mean(jnp.take_along_axis(scores[:-1], ids[1:, None], -1))

    shapes = {
        "table": (vocab, width),
        "layers": {"up": (3, width, 4 * width), "down": (3, 4 * width, width)},
    }
    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    ids = jax.ShapeDtypeStruct((4, 64), jnp.int32)
    mask = jax.ShapeDtypeStruct((4,), jnp.bool_)
    inference = peak(jax.jit(jax.vmap(loss, in_axes=(None, 0))).lower(params, ids))
    private = make(loss)
    assert peak(private.lower_add_in_place(params, ids, mask)) < 1.1 * inference
    assert peak(private.lower_add(params, ids, mask)) > 1.2 * inference


@pytest.mark.slow
@pytest.mark.usefixtures("full_optimisation")
def test_weights_are_not_copied_where_they_outweigh_all_else():
    def loss(params, x):
        for matrix in params:
            x = jnp.tanh(x @ matrix)
        return jnp.sum(x)

    params = [jax.ShapeDtypeStruct((384, 384), jnp.float32)] * 6
    rows, mask = jax.ShapeDtypeStruct((8, 384), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.bool_)
    inference = peak(jax.jit(jax.vmap(loss, in_axes=(None, 0))).lower(params, rows))
    assert peak(make(loss).lower_add_in_place(params, rows, mask)) < 1.1 * inference


def peak(lowered):
    memory = lowered.compile().memory_analysis()
    new_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes + new_outputs
