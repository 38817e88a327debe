"""Runs with noise that is correlated over steps: what is drawn, promised and kept for later."""

import copy
import importlib.util
import json

import numpy as np
import pytest
from dpjax_accounting import Ledger, mechanism_from_dict, verify_report

import dpjax
from dpjax.finetuning import plot_noise
from dpjax.privatize import RunKey, sampler_for
from tests.support.runs import check, weights

needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("jax_privacy") is None,
    reason="the extra correlated is not installed",
)
BANDED = {"noise": "banded", "bands": 2, "neighboring": "replace_one"}


@pytest.fixture
def correlated(cheap_options, tmp_path):
    """Function from options of privacy to those of a cheap run."""

    def make(privacy=BANDED, **changes):
        options = copy.deepcopy(cheap_options) | {"output_dir": tmp_path / "run"}
        options["privacy"] |= privacy
        return options | changes

    return make


@needs_extra
def test_a_stopped_run_goes_on_with_the_same_noise(correlated, stop_after, tmp_path, monkeypatch):
    ledger = str(tmp_path / "data.ledger")
    options = correlated()
    whole = dpjax.finetune(**options)
    report = json.loads((options["output_dir"] / "privacy.json").read_text())
    assert verify_report(report) == [] and report["status"] == "complete"
    mechanism = mechanism_from_dict(report["mechanism"])
    assert (mechanism.bands, mechanism.neighboring, mechanism.num_units) == (2, "replace_one", 240)
    assert whole.epsilon == mechanism.epsilon(1e-5)
    sampler = sampler_for(mechanism, RunKey.from_seed(5))
    sizes = [len(sampler.indices(step)) for step in range(4)]
    assert [row["num_records"] for row in whole.metrics] == sizes
    coefs = report["implementation"]["noise_correlation"]["coefs"]
    assert len(coefs) == 2 and report["implementation"]["noise_standard_deviation"] == 4.0 * 0.5
    assert "strategy matrix of at most 2 bands" in " ".join(report["assumptions"])
    markdown = (options["output_dir"] / "report.md").read_text()
    assert "noise multiplier 4 (noise correlated over steps, 2 bands)" in markdown
    assert "cyclic Poisson sampling probability 0.3333 from 2 groups in turn" in markdown

    parted = correlated(BANDED | {"ledger": ledger}, output_dir=tmp_path / "parted")
    stop_after(2, **copy.deepcopy(parted))
    unfinished = json.loads((parted["output_dir"] / "privacy.json").read_text())
    assert verify_report(unfinished, Ledger(ledger)) == []
    # A search elsewhere may find other last digits.
    monkeypatch.setattr(dpjax.BandedStrategy, "optimized", None)
    resumed = dpjax.finetune(**parted, resume=True)
    assert weights(parted["output_dir"]) == weights(options["output_dir"])
    assert resumed.privacy["implementation"]["noise_correlation"]["coefs"] == coefs
    assert resumed.privacy["dataset_total"]["epsilon"] == pytest.approx(whole.epsilon)


@needs_extra
@pytest.mark.slow
def test_buffers_for_records_that_are_in_one_step(correlated, stop_after, tmp_path, monkeypatch):
    strategy = dpjax.BufferedStrategy((0.9,), (0.4,))
    monkeypatch.setattr(
        dpjax.BufferedStrategy, "optimized", lambda num_steps, num_buffers: strategy
    )
    privacy = {"noise": "blt", "neighboring": "zero_out"}
    whole = dpjax.finetune(**correlated(privacy))
    assert verify_report(whole.privacy) == []
    assert mechanism_from_dict(whole.privacy["mechanism"]).bands == 4
    described = whole.privacy["implementation"]["noise_correlation"]
    assert described["buf_decay"] == list(strategy.buf_decay)
    parted = correlated(privacy, output_dir=tmp_path / "parted")
    stop_after(3, **copy.deepcopy(parted))
    monkeypatch.setattr(dpjax.BufferedStrategy, "optimized", None)
    dpjax.finetune(**parted, resume=True)
    assert weights(parted["output_dir"]) == weights(whole.output_dir)


@needs_extra
def test_other_noise_is_refused_on_resume(stopped, monkeypatch):
    strategy = dpjax.BandedStrategy((1.0, 0.5))
    monkeypatch.setattr(dpjax.BandedStrategy, "optimized", lambda num_steps, bands: strategy)
    other = copy.deepcopy(stopped)
    other["privacy"] |= {"noise": "banded", "bands": 2, "neighboring": "zero_out"}
    stored = json.loads((other["output_dir"] / "private/identity.json").read_text())
    stored["config"]["privacy.neighboring"] = "zero_out"
    (other["output_dir"] / "private/identity.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"privacy.noise=independent, now it is banded"):
        check(other)


def test_a_missing_package_is_named_before_anything_is_read(correlated, tmp_path, pretend_package):
    pretend_package("jax_privacy", None)
    options = correlated(model=tmp_path / "none", train_data=tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r'pip install "dpjax\[correlated\]", or leave out'):
        dpjax.finetune(**options)
    with pytest.raises(ValueError, match=r"is made by the package jax_privacy"):
        dpjax.plan(num_units=240, privacy=options["privacy"])
    assert not options["output_dir"].exists()


@needs_extra
def test_a_plan_has_the_noise_of_the_run(tmp_path, monkeypatch):
    strategy = dpjax.BandedStrategy((1.0, 0.5))
    monkeypatch.setattr(dpjax.BandedStrategy, "optimized", lambda num_steps, bands: strategy)
    promise = {"target_epsilon": 3.0, "delta": 1e-5, "neighboring": "replace_one"}
    common = {"num_units": 1000, "training": {"expected_batch_size": 40, "num_steps": 40}}
    forecast = dpjax.plan(**common, privacy=BANDED | promise)
    # A group has 500 records.
    assert [choice.expected_batch_size for choice in forecast.choices][-2:] == [160, 320]
    assert 2.99 < forecast.asked.epsilon <= 3.0
    independent = dpjax.plan(**common, privacy=promise, batch_sizes=[40]).asked.noise_multiplier
    toeplitz = np.eye(40) + 0.5 * np.eye(40, k=-1)
    matrix, sums = toeplitz / np.linalg.norm(toeplitz, axis=0), np.tril(np.ones((40, 40)))
    relative = np.linalg.norm(sums @ np.linalg.inv(matrix)) / np.linalg.norm(sums)
    found = forecast.correlated
    assert found.relative == pytest.approx(relative) and found.independent == independent
    expected = relative * forecast.asked.noise_multiplier / independent
    assert found.relative_to_independent == pytest.approx(expected)
    assert forecast.full_batch is forecast.flat_from is None
    assert any("Noise is correlated over steps" in said for said in forecast.advice)
    plot_noise(forecast, tmp_path / "noise.png")


@needs_extra
@pytest.mark.slow
def test_past_noise_counts_as_memory(correlated):
    options = correlated(BANDED | {"bands": 3})
    options["training"] |= {"microbatch_size": "auto"}
    names = ("model", "train_data", "training", "tuning", "privacy")
    given = {name: options[name] for name in names} | {"batch_sizes": [40]}
    model = dpjax.plan(**given, measure=True).model
    memory = model.memory
    # Two steps before, and the step's own.
    assert memory.noise == 2 * memory.trained <= 2 * memory.noise_workspace
    others = memory.trained + memory.frozen + memory.optimizer + memory.sums
    assert memory.held == others + memory.noise
    assert memory.microbatch_size == 8 and min(model.seconds) > 0
