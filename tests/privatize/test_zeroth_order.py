"""Zeroth-order gradients: what a loop over records computes, and what bounds a record."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dpjax_accounting import DPSGDSchedule
from hypothesis import given, settings
from hypothesis import strategies as st

import dpjax
from dpjax import FlatClipping, PerGroupClipping, RunKey
from dpjax.privatize.randomness.discrete.noise import Grid
from dpjax.privatize.steps import blocks, differences
from dpjax.privatize.steps.differences import clipped_differences
from dpjax.privatize.steps.directions import Directions
from tests.support.mechanisms import banded, segment
from tests.support.private_loop import (
    CLIP_NORM,
    KEY,
    MECHANISM,
    SIZE,
    loss,
    make_params,
    take,
    total_of,
)

SMOOTHING, NUMBER = 1e-2, 2
GRID = Grid(2**15)


def make(loss_fn=loss, **options):
    options = {"mechanism": MECHANISM, "run_key": KEY, "clip_norm": CLIP_NORM} | options
    return dpjax.private_zeroth_order_gradient(
        loss_fn, **{"smoothing": SMOOTHING, "num_directions": NUMBER} | options
    )


def directions(params, step):
    """Of leaves of one block, with nothing of the code that draws them."""
    key, (leaves, treedef) = KEY.direction_key(step), jax.tree.flatten(params)

    def draw(*parts, shape):
        return jax.random.normal(functools.reduce(jax.random.fold_in, parts, key), shape)

    return [
        treedef.unflatten(draw(j, i, 0, shape=leaf.shape) for i, leaf in enumerate(leaves))
        for j in range(NUMBER)
    ]


def drawn(private, step):
    rows = [r[mask] for r, mask in private.batches(step, microbatch_size=SIZE)]
    return take(np.concatenate(rows))


def sum_of_loop(private, step, params):
    """Σᵢ cᵢ dᵢ, one record, direction and sign after another; and how many were clipped."""
    batch = drawn(private, step)
    total, num_clipped = np.zeros(NUMBER), 0
    evaluate = jax.jit(loss)
    for row in range(len(batch["y"])):
        record = jax.tree.map(lambda leaf, row=row: leaf[row], batch)
        d = []
        for z in directions(params, step):
            up, down = (
                float(evaluate(jax.tree.map(lambda p, z, s=s: p + s * z, params, z), record))
                for s in (SMOOTHING, -SMOOTHING)
            )
            d.append((up - down) / (2 * SMOOTHING))
        factor = min(1, CLIP_NORM / np.linalg.norm(d))
        total += factor * np.array(d)
        num_clipped += factor < 1
    return total, num_clipped


def check_is_the_loop():
    private, params = make(), make_params()
    for step in range(2):
        total = total_of(private, step, params)
        want, num_clipped = sum_of_loop(private, step, params)
        assert total.grads.dtype == jnp.int32 and private.noise.grid == GRID
        np.testing.assert_allclose(total.grads * CLIP_NORM / GRID.resolution, want, atol=2e-3)
        assert int(total.num_clipped) == num_clipped
        assert int(total.num_records) == len(drawn(private, step)["y"])


def check_release():
    """Noise of the mechanism on the k sums, and then public directions: nothing else."""
    private, params = make(), make_params()
    sums = []
    for step in range(2):
        total = total_of(private, step, params)
        noise = GRID.draw(MECHANISM.noise_multiplier, KEY.noise_blocks(step), NUMBER)
        noisy = (np.asarray(total.grads) + noise) * CLIP_NORM / GRID.resolution / 12
        first, second = directions(params, step)
        want = jax.tree.map(lambda a, b, d=noisy: (d[0] * a + d[1] * b) / NUMBER, first, second)
        released = private.release(total, step)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), released, want)
        sums.append(released["w"])
    # Of independent normal directions.
    assert abs(np.corrcoef(np.ravel(sums[0]), np.ravel(sums[1]))[0, 1]) < 0.9


def make_sum():
    params = jnp.ones(3)
    where = Directions.of(params, jax.random.key(0), NUMBER)
    rule = FlatClipping(CLIP_NORM)

    def sum_of(slopes, mask):
        return clipped_differences(
            jnp.dot, where, rule, SMOOTHING, GRID, params, slopes, mask
        ).grads

    return jax.jit(sum_of)


def check_sensitivity(values=(0.0, 3.0, -1e3, 50.0), sum_of=None):
    """Whatever a record holds, and whoever else is there, it moves the sum by at most C."""
    sum_of = sum_of or make_sum()
    slopes = jnp.array([[value, 1.0, -2.0] for value in values], jnp.float32)
    everyone = np.ones(len(values), bool)
    for left_out in range(len(values)):
        others = np.arange(len(values)) != left_out
        moved = np.asarray(sum_of(slopes, everyone) - sum_of(slopes, others), np.int64)
        assert (moved**2).sum() <= GRID.resolution**2, values[left_out]


def test_it_is_a_loop_over_records():
    check_is_the_loop()


def test_what_is_released():
    check_release()


def test_a_record_moves_the_sum_by_at_most_the_clip_norm():
    sum_of = make_sum()
    check_sensitivity((np.nan, np.inf, -1e38, 1e30), sum_of)

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.floats(width=32), min_size=4, max_size=4))
    def of_any(values):
        check_sensitivity(values, sum_of)

    of_any()


def _different_z_for_the_two_signs(monkeypatch):
    moved = Directions.moved
    monkeypatch.setattr(
        Directions,
        "moved",
        lambda self, params, index, distance: moved(
            self, params, index + jnp.where(distance < 0, 7, 0), distance
        ),
    )


def _a_direction_for_all_steps(monkeypatch):
    key = KEY.direction_key(0)
    monkeypatch.setattr(RunKey, "direction_key", lambda self, step: jax.random.clone(key))


def _one_direction_for_all_k(monkeypatch):
    moved = Directions.moved
    monkeypatch.setattr(
        Directions, "moved", lambda self, params, index, d: moved(self, params, 0 * index, d)
    )


def _each_difference_is_clipped_by_itself(monkeypatch):
    def scale(rule, norms, groups, mask):
        factors, rows = differences_scale(rule, norms, groups, mask)
        return factors * NUMBER**0.5, rows

    monkeypatch.setattr(differences, "scale", scale)


def _the_mean_is_clipped(monkeypatch):
    def scale(rule, norms, groups, mask):
        mean = jnp.full_like(norms[0], jnp.mean(norms[0]))
        return differences_scale(rule, [mean], groups, mask)

    monkeypatch.setattr(differences, "scale", scale)


def _noise_of_every_microbatch(monkeypatch):
    def noisy(*args, **options):
        clipped = clipped_differences(*args, **options)
        noise = 0.3 * jax.random.normal(jax.random.key(0), clipped.grads.shape)
        return clipped._replace(grads=clipped.grads + (GRID.resolution * noise).astype(jnp.int32))

    monkeypatch.setattr("dpjax.privatize.steps.zeroth_order_steps.clipped_differences", noisy)


def _too_long_vectors_are_summed(monkeypatch):
    _each_difference_is_clipped_by_itself(monkeypatch)
    monkeypatch.setattr(
        Grid,
        "rounded",
        lambda self, vectors, clip_norm: (vectors * self.resolution / clip_norm).astype(jnp.int32),
    )


differences_scale = differences.scale


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (_different_z_for_the_two_signs, check_is_the_loop),
        (_a_direction_for_all_steps, check_release),
        (_one_direction_for_all_k, check_is_the_loop),
        # Too long a vector would become zero: it cannot move the sum further, and the loop differs.
        (_each_difference_is_clipped_by_itself, check_is_the_loop),
        (_the_mean_is_clipped, check_is_the_loop),
        (_too_long_vectors_are_summed, check_sensitivity),
        (_noise_of_every_microbatch, check_is_the_loop),
    ],
)
def test_bugs_are_noticed(plant, check, monkeypatch):
    if plant is _a_direction_for_all_steps:
        # The reference would follow the planted key.
        of_steps = [directions(make_params(), step) for step in range(2)]
        plant(monkeypatch)
        monkeypatch.setitem(globals(), "directions", lambda _, step: of_steps[step])
    else:
        plant(monkeypatch)
    with pytest.raises(AssertionError):
        check()


def test_it_is_unbiased():
    """Many directions on a quadratic: the estimate comes to the gradient (Malladi et al. 2023)."""
    params, targets = jnp.array([1.0, -2.0, 0.5]), jnp.array([[0.0, 1.0, 0.0], [2.0, 0.0, -1.0]])
    where = Directions.of(params, jax.random.key(3), 4000)
    sums = jax.jit(
        lambda: (
            clipped_differences(
                lambda p, x: jnp.sum((p - x) ** 2),
                where,
                FlatClipping(2000.0),
                1e-2,
                GRID,
                params,
                targets,
                jnp.ones(2, bool),
            ).grads
        )
    )()
    gradient = jnp.sum(2 * (params - targets), axis=0)
    estimate = jax.jit(where.combined)(sums * (2000 / GRID.resolution) / where.number)
    # The standard deviation of an entry is about ‖g‖ √(2 / k).
    np.testing.assert_allclose(estimate, gradient, atol=5 * 10 * (2 / 4000) ** 0.5)


def test_large_leaves_are_drawn_in_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "_MOST_ENTRIES", 100)
    shapes = {"a": (101,), "b": (7, 5, 13), "c": (23, 50), "d": ()}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    where = Directions.of(params, jax.random.key(1), 2)
    # Both functions make the same directions, whose entries are normal and not repeated.
    moved = [where.moved(params, j, jnp.float32(1.0)) for j in range(2)]
    combined = where.combined(jnp.array([2.0, -1.0]))
    jax.tree.map(
        lambda z, first, second: np.testing.assert_allclose(z, 2 * first - second, atol=1e-6),
        combined,
        *moved,
    )
    entries = np.concatenate([np.ravel(leaf) for z in moved for leaf in jax.tree.leaves(z)])
    assert len(np.unique(entries)) == len(entries)
    assert abs(entries.mean()) < 0.1 and abs(entries.std() - 1) < 0.05


def test_integers_are_left_alone_and_an_empty_batch_is_noise():
    params = {"n": jnp.array([3, 4]), "w": jnp.ones(2)}
    private = make(lambda p, x: p["n"][0] * jnp.sum(p["w"] * x["x"][:2]))
    total = private.zeros(params, 0)
    for rows, mask in private.batches(0, microbatch_size=SIZE):
        total = private.add(total, params, take(rows), mask)
    released = private.release(total, 0)
    assert released["n"].dtype == jnp.int32 and not released["n"].any() and released["w"].any()


def test_a_schedule_of_noise_is_followed():
    parts = (segment(12, 1.7, 1), segment(12, 17.0, 1))
    mechanism = DPSGDSchedule(num_units=MECHANISM.num_units, segments=parts)
    private, params = make(mechanism=mechanism), make_params()
    for step, noise in enumerate((1.7, 17.0)):
        total = total_of(private, step, params)
        same = make(mechanism=dataclasses.replace(MECHANISM, noise_multiplier=noise))
        want = same.release(total_of(same, step, params), step)
        released = private.release(total, step)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), released, want)


@pytest.mark.usefixtures("compilations_count")
def test_the_update_is_one_program_and_steps_compile_once():
    private, params = make(), make_params()

    def update(gradient, params):
        return (jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient),)

    for step in range(3):
        total = total_of(private, step, params)
        (params,) = private.release_and_update(update, total, step, params)
    assert private._compiled_add._cache_size() == private._compiled_update._cache_size() == 1
    with pytest.raises(ValueError, match="step 2 has been released already"):
        private.release(total, 2)
    lowered = private.lower_update(update, params, params)
    assert "tensor<2xi32>" in lowered.as_text()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_directions": 0}, ValueError, "num_directions must be at least 1, got 0"),
        ({"num_directions": 1.5}, TypeError, "whole number, got 1.5"),
        ({"smoothing": 0.0}, ValueError, "smoothing must be positive and finite, got 0.0"),
        ({"smoothing": float("nan")}, ValueError, "smoothing must be positive"),
        ({"clip_norm": None}, TypeError, "either clip_norm or rule"),
        ({"run_key": 1}, TypeError, "must be a RunKey"),
        (
            {"clip_norm": None, "rule": PerGroupClipping(str, {"w": 1.0, "b": 1.0})},
            ValueError,
            r"single group.* got the groups \['w', 'b'\]",
        ),
        ({"clip_norm": None, "rule": dpjax.AdaptiveClipping()}, TypeError, "of one group"),
        ({"mechanism": banded(60, 12, 1.7, 4, 2, column_norm=1.0)}, TypeError, "independent noise"),
    ],
)
def test_misuse_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        make(**options)


def test_other_parameters_are_refused():
    private, params = make(), make_params()
    total = private.zeros(params, 0)
    ((rows, mask), *_) = private.batches(0, microbatch_size=SIZE)
    with pytest.raises(ValueError, match=r"total was made for other parameters: params\['b'\]"):
        private.add(total, {"w": params["w"], "b": jnp.zeros(1)}, take(rows), mask)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_few_digits_are_said(dtype, caplog):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), make_params())
    total_of(make(), 0, params)
    assert f"parameters are {jnp.dtype(dtype).name}" in caplog.text
