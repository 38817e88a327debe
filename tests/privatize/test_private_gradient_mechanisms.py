"""Private gradients of every mechanism: what they are on average, their noise, what is refused."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dpjax_accounting import DPSGDSchedule, FullBatch, ShuffledDPSGD
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats

import dpjax
from dpjax import AdaptiveClipping, RunKey
from dpjax.privatize import microbatches, sampler_for
from tests.support import mechanisms as kinds
from tests.support.slow import mark_slow

UNITS, STEPS, SIZE, SIGMA, CLIP_NORM = 10, 120, 4, 0.8, 0.5
COORDINATES = 400
KEY = RunKey.from_seed(6)
SEGMENTS = (kinds.segment(4, SIGMA, 60), kinds.segment(8, 2.0, 60))
_CUT = stats.binom.pmf(np.arange(UNITS + 1), UNITS, 0.5) @ np.minimum(np.arange(UNITS + 1), 5)


@dataclasses.dataclass(frozen=True)
class Case:
    """A mechanism, and what its sampler takes: the units of a step on average, and in a block.

    Attributes:
        mean_size: mean number of units of a step.
        block: steps whose batches depend on each other.
    """

    mechanism: object
    mean_size: float
    block: int = 1


CASES = {
    "poisson": Case(kinds.dpsgd(UNITS, 4, SIGMA, STEPS), 4),
    "replaced": Case(kinds.dpsgd(UNITS, 4, SIGMA, STEPS, neighboring="replace_one"), 4),
    "truncated": Case(kinds.truncated_poisson(UNITS, 5, SIGMA, STEPS, largest_batch_size=5), _CUT),
    "fixed size": Case(kinds.fixed_size(UNITS, 4, SIGMA, STEPS), 4),
    "allocation": Case(kinds.random_allocation(UNITS, 3, SIGMA, STEPS // 3), UNITS / 3, 3),
    "shuffled": Case(
        ShuffledDPSGD(
            noise_multiplier=SIGMA, num_epochs=STEPS // 3, num_units=UNITS, batch_size=SIZE
        ),
        UNITS / 3,
        3,
    ),
    "full": Case(FullBatch(noise_multiplier=SIGMA, num_steps=STEPS, num_units=UNITS), UNITS),
    "user level": Case(kinds.user_level(UNITS, 4, SIGMA, STEPS, records_per_user=2), 4),
    "schedule": Case(DPSGDSchedule(num_units=UNITS, segments=SEGMENTS), 6),
}


def divisor_of(mechanism):
    """B as the mechanism states it, in the name of its own field."""
    for name in ("expected_batch_size", "batch_size", "num_units"):
        if getattr(mechanism, name, None) is not None:
            return getattr(mechanism, name)
    raise AssertionError


def gradients():
    """One for each unit, `(units, coordinates)`; half of them longer than the clip norm."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(UNITS, COORDINATES)) + 0.5
    lengths = np.where(np.arange(UNITS) % 2, 0.2, 3.0)[:, None]
    return (rows * lengths / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clipped():
    rows = gradients().astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * np.minimum(1.0, CLIP_NORM / norms)


def make(mechanism, **options):
    options = {"clip_norm": CLIP_NORM, "run_key": KEY, "strategy": "materialize"} | options
    return dpjax.private_gradient(
        lambda params, row: jnp.sum(params * row), mechanism=mechanism, **options
    )


def total_of(private, step, batches=None, start=()):
    params = jnp.zeros(COORDINATES)
    return _added(private, private.zeros(params, step, *start), params, step, batches)


def _added(private, total, params, step, batches=None):
    for units, mask in batches or private.batches(step, microbatch_size=UNITS):
        total = private.add(total, params, gradients()[units], mask)
    return total


@pytest.mark.parametrize(
    "name", mark_slow(CASES, lambda name: name not in ("fixed size", "schedule"))
)
def test_a_release_is_the_expected_gradient_and_the_noise_of_the_mechanism(name):
    case = CASES[name]
    private = make(case.mechanism)
    assert private.num_steps == STEPS
    released = np.stack([private.release(total_of(private, s), s) for s in range(STEPS)])
    released = released.astype(np.float64)
    # σ and B of every step.
    noise = np.full((STEPS, 1), SIGMA)
    divisor = np.full((STEPS, 1), 0.0)
    if name == "schedule":
        for number, part in enumerate(SEGMENTS):
            steps = slice(60 * number, 60 * (number + 1))
            noise[steps], divisor[steps] = part.noise_multiplier, part.expected_batch_size
    else:
        divisor[:] = divisor_of(case.mechanism)
    # Without the sums: (σC/B)² per coordinate, around 0.
    sampler = sampler_for(case.mechanism, KEY)
    sums = np.stack([clipped()[sampler.indices(step)].sum(axis=0) for step in range(STEPS)])
    standard = (released - sums / divisor) / (noise * CLIP_NORM / divisor)
    for part in np.split(standard, 2):
        assert abs(part.mean()) <= 4 / math.sqrt(part.size)
        assert abs(part.var() - 1) <= 4 * math.sqrt(2 / part.size)
    # On average over the draws: the mean size × the mean contribution / B.
    in_each = divisor if name == "schedule" else case.mean_size
    expected = (in_each / divisor) * clipped().mean(axis=0)
    off = np.sum((released - expected) * np.mean(clipped(), axis=0), axis=1)
    blocks = off.reshape(-1, case.block).mean(axis=1)
    assert abs(blocks.mean()) <= 4 * blocks.std() / math.sqrt(len(blocks))


BANDED = kinds.banded(UNITS, 2, 1.0, 4, bands=1, column_norm=1.0)
ADAPTIVE = kinds.adaptive_clipping(UNITS, 4, 2 * SIGMA, 3, count_stddev=7.0)


def test_noise_of_both_releases_is_that_of_the_mechanism():
    assert AdaptiveClipping().noise_scales(ADAPTIVE) == (2 * SIGMA, 7.0)
    assert AdaptiveClipping(count_stddev=7.0).noise_scales(ADAPTIVE) == (2 * SIGMA, 7.0)


@pytest.mark.slow
def test_a_release_of_gradient_and_clip_norm_has_the_noise_of_the_mechanism():
    private = make(ADAPTIVE, clip_norm=None, rule=AdaptiveClipping())
    total = total_of(private, 0, start=(CLIP_NORM,))
    drawn = sampler_for(ADAPTIVE, KEY).indices(0)
    mean, following = private.release(total, 0)
    standard = (4 * np.asarray(mean) - clipped()[drawn].sum(axis=0)) / (2 * SIGMA * CLIP_NORM)
    assert abs(standard.mean()) <= 4 / math.sqrt(COORDINATES)
    assert abs(standard.var() - 1) <= 4 * math.sqrt(2 / COORDINATES)
    assert float(following) > 0


@pytest.mark.usefixtures("compilations_count")
@pytest.mark.slow
def test_a_schedule_is_compiled_once():
    private = make(CASES["schedule"].mechanism)
    for step in (0, 59, 60, 119):
        private.release(total_of(private, step), step)
    assert private._compiled_mean._cache_size() == 1

    def update(mean, params):
        return params - mean

    for step in (1, 61):
        params = private.release_and_update(
            update, total_of(private, step), step, jnp.zeros(COORDINATES)
        )
    assert private._compiled_update._cache_size() == 1
    # The same step without the update, of another process.
    again = make(CASES["schedule"].mechanism)
    mean = again.release(total_of(again, 61), 61)
    np.testing.assert_allclose(params, -mean, rtol=1e-6)


@pytest.mark.slow
def test_a_schedule_on_a_mesh_with_explicit_axes():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
    placed = jax.device_put(jnp.zeros(COORDINATES), NamedSharding(mesh, PartitionSpec("data")))
    released = []
    for params in (jnp.zeros(COORDINATES), placed):
        private = make(CASES["schedule"].mechanism)
        total = private.zeros(params, 70)
        released.append(np.asarray(private.release(_added(private, total, params, 70), 70)))
    np.testing.assert_allclose(*released, rtol=1e-6)


def test_three_units_at_one_percent_train_on_noise_alone():
    mechanism = kinds.dpsgd(3, 0.03, 1.0, 60)
    private = make(mechanism)
    sizes = []
    for step in range(60):
        pieces = list(private.batches(step, microbatch_size=3))
        sizes.append(len(pieces))
        if len(pieces) == 0 and step < 10:
            mean = private.release(total_of(private, step), step)
            assert np.std(mean) == pytest.approx(CLIP_NORM / 0.03, rel=0.2)
    assert sizes.count(0) > 50


def test_batches_of_another_sampler_are_refused():
    """Shuffled batches released as Poisson ones: the object's mechanism decides."""
    private = make(kinds.dpsgd(UNITS, 4, SIGMA, STEPS))
    shuffled = sampler_for(CASES["shuffled"].mechanism, KEY)
    refused = 0
    for step in range(STEPS):
        batches = list(microbatches(shuffled.indices(step), UNITS))
        if len(shuffled.indices(step)) != len(private._drawn_units(step)):
            with pytest.raises(ValueError, match=r"records, the batch of step \d+ has"):
                private.release(total_of(private, step, batches), step)
            refused += 1
        if refused == 3:
            break
    assert refused == 3


def test_steps_beyond_the_last_epoch_are_refused():
    private = make(CASES["shuffled"].mechanism)
    with pytest.raises(ValueError, match=r"step must be in range\(120\)"):
        private.batches(STEPS, microbatch_size=2)


@pytest.mark.parametrize(
    ("mechanism", "options", "error", "message"),
    [
        (
            BANDED,
            {"clip_norm": None, "rule": AdaptiveClipping()},
            TypeError,
            "must be a DPSGD or an AdaptiveClippingDPSGD where the clip norm adapts",
        ),
        (
            kinds.adaptive_clipping(UNITS, 4, 1.0, 3, count_stddev=2.0),
            {},
            TypeError,
            r"AdaptiveClippingDPSGD.*rule=AdaptiveClipping\(\)",
        ),
        (
            kinds.adaptive_clipping(UNITS, 4, 1.0, 3, count_stddev=2.0),
            {"clip_norm": None, "rule": AdaptiveClipping(count_stddev=3.0)},
            ValueError,
            "count_stddev must be 2, which the mechanism says, got 3",
        ),
        *(
            (
                CASES[name].mechanism,
                {"clip_norm": None, "rule": AdaptiveClipping()},
                TypeError,
                "must be a DPSGD or an AdaptiveClippingDPSGD where the clip norm adapts",
            )
            for name in CASES
            if name not in ("poisson", "replaced")
        ),
        (
            CASES["replaced"].mechanism,
            {"clip_norm": None, "rule": AdaptiveClipping()},
            ValueError,
            "add_or_remove_one",
        ),
        (
            FullBatch(noise_multiplier=1.0, num_steps=3),
            {},
            ValueError,
            "num_units of FullBatch must be given for a run",
        ),
        (
            CASES["shuffled"].mechanism,
            {"present": np.ones(UNITS, bool)},
            ValueError,
            "present must be left out for ShuffledDPSGD",
        ),
    ],
)
def test_what_does_not_fit_the_mechanism_is_refused(mechanism, options, error, message):
    with pytest.raises(error, match=message):
        make(mechanism, **options)


def test_parts_read_the_mechanism_too():
    grads, keys = jnp.ones(3), KEY.noise_keys(0)
    for name in ("shuffled", "full"):
        mechanism = CASES[name].mechanism
        mean = dpjax.noisy_mean(grads, keys, mechanism=mechanism, clip_norm=1.0)
        noise = dpjax.gaussian_noise(keys, grads, SIGMA)
        np.testing.assert_allclose(mean, (grads + noise) / divisor_of(mechanism), rtol=1e-6)
    with pytest.raises(TypeError, match=r"same noise in every step.*segment_at\(step\)"):
        dpjax.noisy_mean(grads, keys, mechanism=CASES["schedule"].mechanism, clip_norm=1.0)
    # One step knows nothing of the steps before it.
    with pytest.raises(TypeError, match=r"independent noise, got BandedDPSGD.*private_gradient"):
        dpjax.noisy_mean(grads, keys, mechanism=BANDED, clip_norm=1.0)
