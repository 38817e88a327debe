"""Correlated noise: its covariance, a reference in float64, restarts, and what is refused."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import dpjax
from dpjax import BandedStrategy, BufferedStrategy, RunKey, gaussian_noise
from dpjax.privatize import sampler_for
from dpjax.privatize.randomness.correlated import checks, strategies
from dpjax.privatize.randomness.correlated.noise import CorrelatedNoise
from tests.support import mechanisms as kinds
from tests.support.slow import mark_slow

pytest.importorskip("jax_privacy", reason="the extra correlated is not installed")

STEPS, SIGMA, CLIP_NORM, BATCH, UNITS, SIZE = 10, 1.7, 0.3, 5, 40, 20_000
KEY = RunKey.from_seed(11)
BANDED = BandedStrategy((0.8, 0.4, 0.2, 0.1))
BUFFERED = BufferedStrategy((0.9, 0.5), (0.2, 0.3))


def mechanism_of(bands, steps=STEPS, column_norm=1.0, units=UNITS, **others):
    values = {"bands": bands, "column_norm": column_norm} | others
    return kinds.banded(units, BATCH, SIGMA, steps, **values)


CASES = {
    "banded": (BANDED, mechanism_of(4)),
    "fewer bands": (BANDED, mechanism_of(5)),
    "norm": (BANDED, mechanism_of(4, column_norm=2.5)),
    "one band": (BandedStrategy((3.0,)), mechanism_of(1)),
    "longer than the run": (BANDED, mechanism_of(4, steps=3)),
    "buffered": (BUFFERED, mechanism_of(STEPS, units=50)),
}

QUICK = ("banded", "buffered")


def matrix_of(strategy, mechanism):
    """C in float64, built entry by entry: columns of the same shape, each of the same length."""
    n = mechanism.num_steps
    if isinstance(strategy, BandedStrategy):
        first = [*strategy.coefs, *[0.0] * n][:n]
    else:
        pairs = list(zip(strategy.buf_decay, strategy.output_scale, strict=True))
        first = [1.0] + [sum(w * d ** (k - 1) for d, w in pairs) for k in range(1, n)]
    matrix = np.array([[first[i - j] if i >= j else 0.0 for j in range(n)] for i in range(n)])
    return matrix / np.linalg.norm(matrix, axis=0) * mechanism.column_norm


def make(strategy=BANDED, mechanism=CASES["banded"][1], key=KEY, clip_norm=CLIP_NORM):
    return dpjax.private_gradient(
        lambda params, row: jnp.sum(params * row),
        mechanism=mechanism,
        clip_norm=clip_norm,
        run_key=key,
        strategy="materialize",
        noise_strategy=strategy,
    )


def released(private, steps, size=SIZE):
    """What steps release where every record is zero: noise alone, `(steps, size)` float64."""
    rows = []
    for step in steps:
        total = private.zeros(jnp.zeros(size), step)
        for units, mask in private.batches(step, microbatch_size=8):
            total = private.add(total, jnp.zeros(size), jnp.zeros((len(units), size)), mask)
        rows.append(np.asarray(private.release(total, step)))
    return np.asarray(rows)


def draws(steps, key=KEY, size=SIZE):
    like = jnp.zeros(size)
    return np.stack([gaussian_noise(key.noise_keys(step), like, 1.0) for step in range(steps)])


def covariance_errors(noise, expected):
    """Of the mean products of every two steps, in standard errors."""
    size = noise.shape[1]
    found = noise.astype(np.float64) @ noise.T / size
    diagonal = np.diag(expected)
    errors = np.sqrt((expected**2 + np.outer(diagonal, diagonal)) / size)
    return np.abs(found - expected) / errors


@pytest.mark.parametrize("name", mark_slow(CASES, lambda name: name not in QUICK))
def test_noise_is_the_inverse_matrix_times_independent_draws(name):
    strategy, mechanism = CASES[name]
    n = mechanism.num_steps
    found = released(make(strategy, mechanism), range(n))
    inverse = np.linalg.inv(matrix_of(strategy, mechanism))
    expected = SIGMA * CLIP_NORM / BATCH * inverse @ draws(n).astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    # The same as a distribution: the draws are not asked for.
    covariance = inverse @ inverse.T * (SIGMA * CLIP_NORM / BATCH) ** 2
    assert covariance_errors(found, covariance).max() < 4.5


def test_planted_bugs_are_seen(monkeypatch):
    """The comparisons above fail for keys that are used twice, and for a wrong scale."""
    strategy, mechanism = CASES["banded"]
    inverse = np.linalg.inv(matrix_of(strategy, mechanism))
    covariance = inverse @ inverse.T * (SIGMA * CLIP_NORM / BATCH) ** 2
    constant = KEY.noise_keys(0)
    with monkeypatch.context() as planted:
        planted.setattr(RunKey, "noise_keys", lambda self, step: constant)
        noise = released(make(), range(STEPS))
    assert covariance_errors(noise, covariance).max() > 20
    independent = SIGMA * CLIP_NORM / BATCH * draws(STEPS)
    assert covariance_errors(independent, covariance).max() > 20
    assert covariance_errors(1.05 * released(make(), range(STEPS)), covariance).max() > 5


@pytest.mark.parametrize(
    "firsts", mark_slow([((0, 6),), ((1, 2, 3, 4, 5, 7, 8, 9),)], lambda firsts: len(firsts) > 2)
)
def test_a_restart_at_any_step_gives_the_same_bits(firsts):
    whole = released(make(), range(STEPS), size=50)
    for first in firsts:
        again = released(make(), range(first, STEPS), size=50)
        np.testing.assert_array_equal(again, whole[first:])
    # A run that forgets what came before a restart would differ: the noise has a history.
    alone = SIGMA * CLIP_NORM / BATCH * draws(STEPS, size=50) / matrix_of(*CASES["banded"])[3, 3]
    assert np.abs(alone[5] - whole[5]).max() > 0.1 * np.abs(whole[5]).max()


def test_steps_in_any_order_have_their_own_noise():
    """The source of noise itself knows no order: what is kept is never taken for another step's."""
    strategy, mechanism = CASES["banded"]
    noise = CorrelatedNoise(mechanism, KEY, 1.0, strategy)
    like = {"a": jnp.zeros((3, 2)), "b": None, "c": jnp.zeros(4)}
    in_order = [noise.unscaled(step, like) for step in range(6)]
    for step in (2, 5, 5, 0, 1, 4):
        again = noise.unscaled(step, like)
        jax.tree.map(np.testing.assert_array_equal, again, in_order[step])
    # Other shapes: the history is made anew.
    assert noise.unscaled(5, jnp.zeros(7)).shape == (7,)


def test_an_interrupted_step_does_not_leave_half_a_state(monkeypatch):
    noise = CorrelatedNoise(mechanism_of(4), KEY, 1.0, BANDED)
    like = jnp.zeros(9)
    expected = [np.asarray(noise.unscaled(step, like)) for step in range(4)]
    noise.unscaled(1, like)

    def interrupted(self, step):
        raise KeyboardInterrupt

    with monkeypatch.context() as planted:
        planted.setattr(RunKey, "noise_keys", interrupted)
        with pytest.raises(KeyboardInterrupt):
            noise.unscaled(3, like)
    for step in (3, 2):
        np.testing.assert_array_equal(noise.unscaled(step, like), expected[step])


def test_a_step_before_one_that_was_released_is_refused():
    """Its gradient would have seen noise of which its own is a part."""
    private = make()
    released(private, [0, 4], size=3)
    total = private.zeros(jnp.zeros(3), 2)
    with pytest.raises(ValueError, match=r"step must be after 4.*got 2.*in their order"):
        private.release(total, 2)


@pytest.mark.usefixtures("compilations_count")
def test_noise_and_update_in_one_program_have_the_same_noise():
    apart, together = make(), make()
    mean = released(apart, [0, 1], size=6)
    params = jnp.zeros(6)

    def update(mean, params):
        return params + mean

    for step in range(2):
        total = together.zeros(params, step)
        for units, mask in together.batches(step, microbatch_size=8):
            total = together.add(total, params, jnp.zeros((len(units), 6)), mask)
        params = together.release_and_update(update, total, step, params)
    np.testing.assert_allclose(params, mean.sum(axis=0), rtol=1e-6)
    assert together._compiled_update._cache_size() == 1


def test_parameters_that_are_not_trained_get_no_noise():
    private = dpjax.private_gradient(
        lambda params, row: jnp.sum(params["w"] * row) + 0.0 * params["n"].sum(),
        mechanism=mechanism_of(4),
        clip_norm=1.0,
        run_key=KEY,
        noise_strategy=BANDED,
    )
    params = {"w": jnp.zeros(5), "n": jnp.arange(3)}
    total = private.zeros(params, 0)
    for units, mask in private.batches(0, microbatch_size=40):
        total = private.add(total, params, jnp.ones((len(units), 5)), mask)
    mean = private.release(total, 0)
    assert mean["n"].tolist() == [0, 0, 0] and np.std(mean["w"]) > 0


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_noise_on_a_mesh(axis_type):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(axis_type,))
    place = NamedSharding(mesh, PartitionSpec("data"))
    noise = CorrelatedNoise(mechanism_of(4), KEY, 1.0, BANDED)
    expected = [np.asarray(noise.unscaled(step, jnp.zeros((8, 3)))) for step in range(4)]
    for step in (2, 3):
        found = noise.unscaled(step, jax.device_put(jnp.zeros((8, 3)), place))
        assert found.sharding.is_equivalent_to(place, 2)
        np.testing.assert_allclose(found, expected[step], rtol=1e-6)


class TestMatrix:
    """The matrix that runs is the one that is accounted for."""

    @pytest.mark.parametrize("name", CASES)
    def test_it_has_the_norm_and_the_bands_of_the_mechanism(self, name):
        strategy, mechanism = CASES[name]
        matrix = matrix_of(strategy, mechanism)
        np.testing.assert_allclose(np.linalg.norm(matrix, axis=0), mechanism.column_norm)
        assert np.all(np.tril(matrix, -mechanism.bands) == 0)
        scales = checks.column_scales(strategy, mechanism)
        runs = np.diag(strategy.toeplitz(mechanism.num_steps)[0] / scales)
        np.testing.assert_allclose(np.diag(runs), np.diag(matrix))

    def test_a_column_that_is_too_long(self):
        """A planted bug: noise that is a thousandth too small in one step."""
        mechanism = mechanism_of(4)
        scales = checks.column_scales(BANDED, mechanism)
        checks.check_strategy(BANDED, mechanism, scales)
        scales[6] *= 0.999
        with pytest.raises(ValueError, match=r"largest column norm.*at most 1.*got 1\.001"):
            checks.check_strategy(BANDED, mechanism, scales)

    def test_too_many_bands(self):
        with pytest.raises(ValueError, match=r"at most 3 bands, which the mechanism says, got 4"):
            make(BANDED, mechanism_of(3))
        with pytest.raises(ValueError, match=r"at most 5 bands.*got 10.*bands=10"):
            make(BUFFERED, mechanism_of(5))

    def test_an_inverse_of_another_matrix(self, monkeypatch):
        other = BandedStrategy((0.8, 0.4, 0.2, 0.2))
        monkeypatch.setattr(BandedStrategy, "inverse", lambda self: inverse(other))
        with pytest.raises(ValueError, match="inverse of the strategy matrix must be accurate"):
            make()

    def test_a_matrix_whose_inverse_explodes_in_float32(self):
        with pytest.raises(ValueError, match=r"accurate to 0\.0001 in float32, got an error of"):
            make(BandedStrategy((0.1, 1.0)), mechanism_of(2, steps=60))

    @pytest.mark.parametrize(
        ("kind", "values", "message"),
        [
            (BandedStrategy, ((),), "coefs must be finite numbers"),
            (BandedStrategy, ((0.0, 1.0),), "the first is above 0"),
            (BandedStrategy, ((1.0, math.nan),), r"got \(1, nan\)"),
            (BandedStrategy, ((1.0, 1e39),), "finite"),
            (BufferedStrategy, ((), ()), "at least one"),
            (BufferedStrategy, ((0.5,), (0.1, 0.1)), "as many finite numbers"),
            (BufferedStrategy, ((1.5,), (0.1,)), "between 0 and 1"),
        ],
    )
    def test_bad_numbers(self, kind, values, message):
        with pytest.raises(ValueError, match=message):
            kind(*values)

    def test_it_is_given_to_no_other_mechanism(self):
        with pytest.raises(TypeError, match=r"noise_strategy is for BandedDPSGD.*got DPSGD"):
            make(BANDED, kinds.dpsgd(UNITS, 4, SIGMA, STEPS))
        with pytest.raises(TypeError, match="must be a BandedStrategy or a BufferedStrategy"):
            make(np.eye(3))

    def test_the_default_is_optimized_for_steps_and_bands(self):
        private = make(None)
        assert private.noise_strategy == BandedStrategy.optimized(STEPS, 4)
        assert len(private.noise_strategy.coefs) == 4
        # Better than what the search begins with, and that is better than independent noise.
        steps, sums = 40, np.tri(40)

        def error(strategy):
            matrix = matrix_of(strategy, mechanism_of(8, steps=steps))
            return np.sum((sums @ np.linalg.inv(matrix)) ** 2)

        start = np.cumprod([1.0, *((2 * k - 1) / (2 * k) for k in range(1, 8))])
        found = [BandedStrategy.optimized(steps, 8), BandedStrategy(tuple(start))]
        errors = [error(strategy) for strategy in (*found, BandedStrategy((1.0,)))]
        assert errors == sorted(errors)

    @pytest.mark.slow
    def test_buffers_are_optimized(self):
        strategy = BufferedStrategy.optimized(64)
        mechanism = mechanism_of(64, steps=64, units=64 * BATCH)
        private = make(strategy, mechanism)
        worst = np.linalg.norm(np.tri(64) @ np.linalg.inv(matrix_of(strategy, mechanism)), axis=1)
        assert worst.max() < 0.5 * math.sqrt(64)
        assert private.noise_strategy is strategy


def inverse(strategy):
    return strategies.matrix_factorization().toeplitz.inverse_as_streaming_matrix(
        np.asarray(strategy.coefs, np.float32)
    )


def test_units_take_part_once_in_as_many_steps_as_there_are_bands():
    mechanism = mechanism_of(4, steps=40)
    sampler = sampler_for(mechanism, KEY)
    steps_of = {unit: [] for unit in range(UNITS)}
    for step in range(40):
        for unit in sampler.indices(step):
            steps_of[unit].append(step)
    gaps = np.concatenate([np.diff(steps) for steps in steps_of.values()])
    assert gaps.min() == 4 and np.all(gaps % 4 == 0)
    # Independent Poisson sampling, which such noise does not cover, is seen.
    assert mechanism.sampling_probability == BATCH / 10


def test_without_the_package_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax_privacy", None)
    for strategy in (None, BandedStrategy((1.0, 0.25)), BUFFERED):
        mechanism = mechanism_of(STEPS, units=50) if strategy is BUFFERED else mechanism_of(3)
        with pytest.raises(ImportError, match=r'pip install "dpjax\[correlated\]"'):
            make(strategy, mechanism)
