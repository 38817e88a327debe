"""Federated runs whose clip norm follows a quantile: account, noise, movement, resumption."""

import copy
import json
import signal

import dp_accounting
import jax
import numpy as np
import pytest
from dp_accounting import pld
from dpjax_accounting import (
    Ledger,
    UserSampledAdaptiveClippingDPSGD,
    mechanism_from_dict,
    verify_report,
)

from dpjax.federated import FederatedConfig, federate, set_up_federated
from dpjax.finetuning import RunInterrupted
from dpjax.finetuning.training import loop
from dpjax.finetuning.training.stages import begin_stage
from dpjax.privatize import AdaptivePrivateGradient
from dpjax.privatize.rules.adaptive_clipping import NoiseScales


def prepared(options):
    paths = {name: str(options[name]) for name in ("model", "output_dir")}
    return set_up_federated(FederatedConfig.from_options(options | paths))


@pytest.fixture
def adaptive(options):
    options["privacy"] |= {"target_quantile": 0.5}
    return options


def epsilon_of_both(mechanism, delta):
    """By dp-accounting: both releases of a round as one Gaussian, sampled and composed."""
    squares = mechanism.gradient_noise_multiplier**-2 + (2 * mechanism.count_stddev) ** -2
    q = mechanism.expected_batch_size / mechanism.num_units
    round_ = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(squares**-0.5))
    accountant = pld.PLDAccountant()
    accountant.compose(dp_accounting.SelfComposedDpEvent(round_, mechanism.num_steps))
    return accountant.get_epsilon(delta)


def test_the_count_is_charged_and_reported(adaptive, capsys):
    ledger_path = adaptive["output_dir"].parent / "ledger.jsonl"
    adaptive["privacy"] |= {"ledger": str(ledger_path), "count_stddev": 3.0}
    dataset = prepared(adaptive).plan.dataset
    result = federate(**adaptive)
    assert "clip norm from 0.5 on towards the 0.5 quantile" in " ".join(
        capsys.readouterr().out.split()
    )
    folder = adaptive["output_dir"]
    report = json.loads((folder / "privacy.json").read_text())
    mechanism = mechanism_from_dict(report["mechanism"])
    assert isinstance(mechanism, UserSampledAdaptiveClippingDPSGD)
    # As much as one release with the noise that was given, and by another accountant.
    assert mechanism.noise_multiplier == pytest.approx(4.0, rel=1e-9)
    assert mechanism.noise_multiplier >= 4.0 and mechanism.gradient_noise_multiplier > 5.3
    assert result.epsilon == pytest.approx(epsilon_of_both(mechanism, 1e-4), rel=1e-3)
    assert verify_report(report, Ledger.open(ledger_path, dataset)) == []
    assert report["data_uses"][1]["use"] == "The number that was not clipped in each step"
    words = json.dumps(report)
    assert "Of counts: discrete Gaussian" in report["randomness"]["noise_distribution"]
    assert "noise of counts" in report["randomness"]["generators"]
    assert any(each.startswith("The count of each step has") for each in report["assumptions"])
    assert "with discrete Gaussian noise" in words and "with Gaussian noise" not in words
    done = report["implementation"]
    assert done["adaptive_clipping"]["count_stddev"] == 3.0
    # The noise of a gradient that pays for no count is caught, and a count that nobody counts.
    wrong = copy.deepcopy(report)
    wrong["implementation"]["noise_standard_deviation"] = 4.0 * 0.5
    assert "noise_standard_deviation" in verify_report(wrong)[0]
    wrong["implementation"] = done | {"adaptive_clipping": None}
    assert "adaptive_clipping must say" in verify_report(wrong)[0]
    norms = [row["clip_norm"] for row in result.metrics]
    assert norms[0] == 0.5 and len(set(norms)) == 4
    config = json.loads((folder / "config.json").read_text())
    assert config["privacy"]["target_quantile"] == 0.5
    assert "| Clip norm | 0.5 in the first step," in (folder / "report.md").read_text()


def test_noise_is_calibrated_for_both_releases(adaptive):
    del adaptive["privacy"]["noise_multiplier"]
    adaptive["privacy"] |= {"target_epsilon": 2.0}
    mechanism = prepared(adaptive).plan.mechanism
    assert 0.999 * 2.0 <= mechanism.epsilon(1e-4) <= 2.0
    # The default leaves the gradient at most 3.3 % more noise.
    assert 1 < mechanism.gradient_noise_multiplier / mechanism.noise_multiplier < 1.033
    adaptive["privacy"] |= {"count_stddev": 0.1}
    with pytest.raises(ValueError, match=r"privacy\.count_stddev=0\.1 is too little noise"):
        prepared(adaptive)


def relative_noise(options):
    """Standard deviation of what is added to a sum in a round, over C."""
    options["clients"] |= {"local_learning_rate": 1e-12}
    options["compute"] = {"cache_frozen": "never"}
    run = prepared(options)
    stage = begin_stage(run, run.plan)
    steps = loop._make_steps(run, stage.optimizer)
    clip_norm, batch = float(stage.state.clip_norm), run.plan.noise.batch_size
    total, params = steps.begin(stage.params, 0, stage.state)
    for rows, mask in loop._batches(run, steps, 0):
        total, params = steps.add(total, params, rows, mask, run.model.frozen)
    before = [np.array(leaf) for leaf in jax.tree.leaves(params)]
    params, state = steps.update(total, 0, params, stage.state)
    moved = [np.ravel(a - b) for a, b in zip(jax.tree.leaves(params), before, strict=True)]
    assert float(state.clip_norm) != clip_norm
    return float(np.std(np.concatenate(moved))) * batch / clip_norm, run.plan.mechanism


@pytest.mark.slow
def test_updates_have_the_noise_that_pays_for_the_count(adaptive, monkeypatch):
    adaptive |= {"tuning": "lora", "lora": {"rank": 8}}
    adaptive["privacy"] |= {"count_stddev": 2.2}
    measured, mechanism = relative_noise(copy.deepcopy(adaptive))
    wanted = mechanism.gradient_noise_multiplier
    assert wanted > 2 * mechanism.noise_multiplier
    assert measured == pytest.approx(wanted, rel=0.1)
    # Planted: the count is taken for free.
    monkeypatch.setattr(
        AdaptivePrivateGradient,
        "noise_scales",
        property(
            lambda own: NoiseScales(own.mechanism.noise_multiplier, own.mechanism.count_stddev)
        ),
    )
    assert relative_noise(adaptive)[0] != pytest.approx(wanted, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("first", (50.0, 0.001))
def test_the_clip_norm_moves_to_the_quantile(adaptive, first):
    adaptive["privacy"] |= {"noise_multiplier": 0.4, "clip_norm": first}
    adaptive["privacy"] |= {"clip_learning_rate": 1.0, "target_quantile": 0.6}
    adaptive["clients"] |= {"num_rounds": 40, "cohort_size": 36, "clients_at_once": 40}
    del adaptive["clients"]["dirichlet_alpha"]
    result = federate(**adaptive)
    late = result.metrics[-12:]
    assert np.mean([row["fraction_clipped"] for row in late]) == pytest.approx(0.4, abs=0.12)
    assert (late[-1]["clip_norm"] < first) == (first > 1)


@pytest.mark.slow
def test_a_run_is_resumed_with_the_clip_norm_it_had(adaptive, tmp_path):
    whole = federate(**copy.deepcopy(adaptive) | {"output_dir": tmp_path / "whole"})
    update = loop.TrainingProgress.update

    def stop(progress, done, *args):
        update(progress, done, *args)
        if done == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunInterrupted):
        patch.setattr(loop.TrainingProgress, "update", stop)
        federate(**copy.deepcopy(adaptive))
    other = copy.deepcopy(adaptive)
    other["privacy"] |= {"target_quantile": 0.6}
    with pytest.raises(ValueError, match=r"cannot resume.*privacy\.target_quantile"):
        federate(**other, resume=True)
    resumed = federate(**adaptive, resume=True)
    for name in ("clip_norm", "loss"):
        assert [row[name] for row in resumed.metrics] == [row[name] for row in whole.metrics]
    first, second = (
        (folder / "model" / "model.safetensors").read_bytes()
        for folder in (tmp_path / "whole", adaptive["output_dir"])
    )
    assert first == second


@pytest.mark.parametrize(
    ("changes", "words"),
    (
        ({"target_quantile": 1.0}, "privacy.target_quantile must be above 0 and below 1"),
        ({"target_quantile": 0.5, "neighboring": "zero_out"}, "privacy.neighboring=zero_out does"),
        ({"count_stddev": 2.0}, "privacy.count_stddev=2.0 has no meaning with a constant"),
        ({"clip_learning_rate": 2.0}, "Give privacy.target_quantile"),
        ({"target_quantile": 0.5, "clip_learning_rate": 0.0}, "must be positive and finite"),
        (
            {"target_quantile": 0.5, "count_stddev": 1e9},
            r"^privacy\.count_stddev=1e\+09 does not go",
        ),
        ({"target_quantile": 0.5, "noise_multiplier": 1e9}, "or a smaller noise multiplier"),
        ({"target_quantile": 0.5, "noise_multiplier": 0.01}, "below 0.1 are not accounted for"),
    ),
)
def test_what_does_not_fit_is_refused(options, changes, words):
    options["privacy"] |= changes
    with pytest.raises(ValueError, match=words):
        prepared(options)


def test_without_privacy_no_clip_norm_adapts(options):
    options |= {"privacy": {"target_quantile": 0.5}, "non_private": True}
    with pytest.raises(ValueError, match="non_private=True does not go with"):
        prepared(options)
