"""`fit` with noise that is correlated over steps: parameters, ε after each step, and the report."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from dpjax_accounting import BandedDPSGD, claim, verify_report
from rich.console import Console

import dpjax
from dpjax.privatize import gaussian_noise, sampler_for
from tests.support import mechanisms as kinds
from tests.training.fitting import distance_fit
from tests.training.fitting.distance_fit import CLIP, DATA, DELTA, KEY, NUM, RATE

pytest.importorskip("jax_privacy", reason="the extra correlated is not installed")

STEPS, QUIET = 7, Console(quiet=True)
MECHANISM = kinds.banded(NUM, 6, 4.0, STEPS, bands=3, column_norm=1.0)
STRATEGY = dpjax.BandedStrategy((0.9, 0.4, 0.2))


def fit(mechanism=MECHANISM, **changes):
    return distance_fit.fit(mechanism, **changes)


def test_parameters_are_those_of_a_loop_in_float64():
    result = fit(noise_strategy=STRATEGY).run(QUIET)
    coefs = [*STRATEGY.coefs, *[0.0] * STEPS]
    toeplitz = np.array([[coefs[i - j] if i >= j else 0 for j in range(STEPS)] for i in range(7)])
    matrix = toeplitz / np.linalg.norm(toeplitz, axis=0)
    draws = [gaussian_noise(KEY.noise_keys(t), jnp.zeros(3), 4.0 * CLIP) for t in range(STEPS)]
    noise = np.linalg.inv(matrix) @ np.asarray(draws, np.float64)
    sampler, w = sampler_for(MECHANISM, KEY), np.zeros(3)
    for step in range(STEPS):
        gradients = w - DATA[sampler.indices(step)]
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        total = (gradients * np.minimum(1, CLIP / norms)).sum(axis=0)
        w = w - RATE * (total + noise[step]) / 6
    np.testing.assert_allclose(result.params, w, rtol=1e-4, atol=1e-6)


def test_epsilon_is_that_of_the_mechanism_after_each_step():
    run = fit()
    for done in run:
        so_far = MECHANISM.after(done.step).epsilon(DELTA)
        assert so_far <= done.epsilon <= 1.05 * so_far
        assert run.result().epsilon == so_far
    # One release for every three steps that were begun.
    once = BandedDPSGD(**vars(MECHANISM) | {"num_steps": 1})
    assert MECHANISM.after(3).epsilon(DELTA) == once.epsilon(DELTA)


def test_the_report_says_how_noise_is_correlated():
    run = fit(noise_strategy=STRATEGY)
    next(iter(run))
    report = run.result().privacy
    assert verify_report(report) == []
    assert claim(MECHANISM, DELTA, steps_completed=1).items() <= report.items()
    done, assumptions = report["implementation"], " ".join(report["assumptions"])
    correlation = done["noise_correlation"]
    assert correlation["coefs"] == list(STRATEGY.coefs) and correlation["buf_decay"] is None
    assert "banded Toeplitz" in correlation["sentence"]
    assert done["noise_standard_deviation"] == 4.0 * CLIP
    assert done["sampling"].startswith("Cyclic Poisson: records are dealt once into 3 groups")
    assert "correlated over steps by a strategy matrix of at most 3 bands" in assumptions
    assert "the strategy matrix of the noise are public" in assumptions


def test_the_strategy_in_use_makes_the_run_again():
    first = fit()
    again = fit(noise_strategy=dpjax.BandedStrategy(first.noise_strategy.coefs))
    np.testing.assert_array_equal(first.run(QUIET).params, again.run(QUIET).params)
    assert fit(kinds.dpsgd(NUM, 6, 4.0, 5)).noise_strategy is None


def test_a_run_that_goes_on_keeps_its_strategy(tmp_path, monkeypatch):
    """A search elsewhere may find other last digits, and that of buffers takes long."""
    whole = fit()
    expected = whole.run(QUIET).params
    folder = {"output_dir": tmp_path / "run", "checkpoint_every_steps": 1}
    for done in fit(**folder):
        if done.step == 3:
            break
    monkeypatch.setattr(dpjax.BandedStrategy, "optimized", None)
    resumed = fit(**folder, resume=True)
    assert resumed.steps_completed == 3 and resumed.noise_strategy == whole.noise_strategy
    np.testing.assert_array_equal(resumed.run(QUIET).params, expected)


def test_another_strategy_is_refused_on_resume(tmp_path):
    next(iter(fit(output_dir=tmp_path / "run", noise_strategy=STRATEGY)))
    with pytest.raises(ValueError, match=r"noise_strategy coefs was .*now it is"):
        other = dpjax.BandedStrategy((0.9, 0.4, 0.1))
        fit(output_dir=tmp_path / "run", noise_strategy=other, resume=True)
    # Another mechanism has another strategy, and is what is wrong.
    with pytest.raises(ValueError, match="mechanism bands was 3, now it is 2"):
        fit(kinds.banded(NUM, 6, 4.0, STEPS, 2, 1.0), output_dir=tmp_path / "run", resume=True)


def test_a_stored_strategy_that_was_edited_is_refused(tmp_path):
    next(iter(fit(output_dir=tmp_path / "run")))
    path = tmp_path / "run" / "private" / "identity.json"
    stored = json.loads(path.read_text())
    stored["noise_strategy"]["coefs"][1] = 0.125
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="its numbers are not those that the run was started"):
        fit(output_dir=tmp_path / "run", resume=True)


@pytest.mark.slow
def test_buffers_for_records_that_take_part_once():
    mechanism = kinds.banded(NUM, 4, 4.0, STEPS, bands=STEPS, column_norm=1.0)
    strategy = dpjax.BufferedStrategy((0.9,), (0.4,))
    result = fit(mechanism, noise_strategy=strategy).run(QUIET)
    assert verify_report(result.privacy) == []
    described = result.privacy["implementation"]["noise_correlation"]
    assert described["coefs"] is None
    assert described["buf_decay"] == list(strategy.buf_decay)


def test_a_strategy_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at most 3 bands, which the mechanism says, got 4"):
        fit(noise_strategy=dpjax.BandedStrategy((1.0, 0.3, 0.2, 0.1)))
    with pytest.raises(TypeError, match="noise_strategy is for BandedDPSGD"):
        fit(kinds.dpsgd(NUM, 6, 4.0, 5), noise_strategy=STRATEGY)
    plain = dpjax.NoPrivacy(num_units=NUM, expected_batch_size=6, num_steps=2)
    with pytest.raises(TypeError, match="leave out noise_strategy"):
        fit(plain, clip_norm=None, delta=None, noise_strategy=STRATEGY)
