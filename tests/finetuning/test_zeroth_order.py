"""Runs with training.gradient=zeroth-order: private, resumable, and said in the report."""

import copy
import json
import math

import pytest
from dpjax_accounting import LaplaceDPSGD, Ledger, mechanism_from_dict, verify_report

import dpjax
from dpjax.audit import verify_audit_report
from tests.support.owned_records import COUNTS, author_of_each, owned_file
from tests.support.runs import check, weights

ESTIMATED = {"gradient": "zeroth-order", "num_directions": 2, "optimizer": "sgd", "momentum": 0.0}


@pytest.fixture
def estimated(cheap_options, tmp_path):
    training = cheap_options["training"] | ESTIMATED
    return copy.deepcopy(cheap_options) | {"training": training, "output_dir": tmp_path / "run"}


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["head", "lora", "full"])
def test_a_resumed_run_comes_to_the_same_model(
    tuning, estimated, whole, stop_after, tmp_path, capsys
):
    estimated |= {"tuning": tuning}
    run = dpjax.finetune(**estimated)
    # Every step releases what a step of back-propagation would: as many numbers or fewer.
    assert run.epsilon == whole.epsilon
    report = json.loads((run.output_dir / "privacy.json").read_text())
    assert "zeroth-order gradient" in report["implementation"]["gradient_accumulation"]
    assert report["data_uses"][0]["use"] == "Differences of losses of the training records"
    assert "Each difference of losses is clipped" in report["data_uses"][0]["explanation"]
    assert report["randomness"]["noise_distribution"].startswith("Discrete Gaussian")
    assert any("no rounding of floating-point" in line for line in report["assumptions"])
    said = " ".join((run.output_dir / "report.md").read_text().split())
    assert "steps of zeroth-order gradients with 2 directions each" in said
    assert "4 forward passes for each microbatch" in " ".join(capsys.readouterr().out.split())
    estimated["output_dir"] = tmp_path / "stopped"
    stop_after(2, **estimated)
    dpjax.finetune(**estimated, resume=True)
    assert weights(estimated["output_dir"]) == weights(run.output_dir)


@pytest.fixture
def with_laplace(estimated):
    """Options of a run with Laplace noise."""
    privacy = {"target_epsilon": 4.0, "delta": 1e-5, "clip_norm": 0.5}
    estimated["privacy"] = privacy | {"noise_distribution": "laplace"}
    estimated["training"]["num_directions"] = 1
    return estimated


@pytest.mark.slow
def test_laplace_noise_is_calibrated_reported_and_kept(with_laplace, stop_after, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    with_laplace["privacy"] |= {"ledger": str(ledger)}
    stop_after(2, **with_laplace)
    changed = copy.deepcopy(with_laplace)
    changed["privacy"]["noise_distribution"] = "gaussian"
    with pytest.raises(ValueError, match="noise_distribution=laplace, now it is gaussian"):
        dpjax.finetune(**changed, resume=True)
    run = dpjax.finetune(**with_laplace, resume=True)
    report = json.loads((run.output_dir / "privacy.json").read_text())
    mechanism = mechanism_from_dict(report["mechanism"])
    assert isinstance(mechanism, LaplaceDPSGD) and 3.99 < run.epsilon <= 4.0
    assert report["randomness"]["noise_distribution"].startswith("Discrete Laplace")
    assert any("a discrete Laplace distribution" in line for line in report["assumptions"])
    assert verify_report(report, Ledger(ledger)) == []
    assert Ledger(ledger).epsilon(1e-5) == pytest.approx(run.epsilon, rel=1e-3)
    said = " ".join((run.output_dir / "report.md").read_text().split())
    assert "(scale of Laplace noise over clip norm)" in said
    stddev = report["implementation"]["noise_standard_deviation"]
    assert stddev == pytest.approx(math.sqrt(2) * 0.5 * mechanism.noise_multiplier)
    # The scale in its place is noticed.
    report["implementation"]["noise_standard_deviation"] = stddev / math.sqrt(2)
    assert "noise_standard_deviation" in verify_report(report)[0]
    again = with_laplace | {"output_dir": tmp_path / "again"}
    again["privacy"] = {k: v for k, v in again["privacy"].items() if k != "ledger"}
    assert weights(dpjax.finetune(**again).output_dir) == weights(run.output_dir)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"num_directions": 2}}, "differences along several directions are clipped"),
        ({"privacy": {"sampling": "random-allocation"}}, "sampling=random-allocation does not go"),
        ({"privacy": {"neighboring": "replace_one"}}, "not accounted for with privacy.noise_dist"),
        ({"train_data": {"owner_column": "author"}}, "owner_column=author does not go with"),
        ({"training": {"head_steps": 1, "head_batch_size": 8}, "tuning": "lora"}, "one mean size"),
        ({"training": {"gradient": "backward"}}, "is for the one number that a step of"),
        ({"privacy": {"noise_distribution": "laplacian"}}, "Did you mean 'laplace'"),
        ({"privacy": {"target_epsilon": 1e2, "clip_norm": 1.0}}, "met by every noise multiplier"),
    ],
)
def test_what_laplace_noise_does_not_go_with_is_refused(changes, words, with_laplace):
    with_laplace["train_data"] = {"path": str(with_laplace["train_data"])}
    for name, value in changes.items():
        old = with_laplace.get(name, {})
        with_laplace[name] = old | value if isinstance(value, dict) else value
    with pytest.raises((ValueError, TypeError), match=words):
        check(with_laplace)


@pytest.mark.slow
@pytest.mark.parametrize("num_canaries", [0, 40])
def test_owners_and_canaries_come_to_the_same_after_an_interruption(
    num_canaries, estimated, stop_after, train_file, tmp_path
):
    path = owned_file(train_file, tmp_path / "train.csv", author_of_each())
    estimated["train_data"] = {"path": str(path), "owner_column": "author"}
    estimated["privacy"] |= {"records_per_owner": 3, "delta": 1e-4}
    estimated["training"] |= {"expected_batch_size": 16, "microbatch_size": 12}
    if num_canaries:
        estimated["privacy"] |= {"noise_multiplier": 0.5}
        estimated["training"] |= {"num_steps": 20}
        estimated["audit"] = {"num_canaries": num_canaries, "most_share": 0.5}
    run = dpjax.finetune(**estimated)
    report = json.loads((run.output_dir / "privacy.json").read_text())
    assert report["mechanism"]["mechanism"] == "user_sampled_dpsgd"
    assert report["mechanism"]["num_units"] == len(COUNTS) + num_canaries // 2
    assert verify_report(report) == []
    if num_canaries:
        assert verify_audit_report(run.audit) == []
    estimated["output_dir"] = tmp_path / "stopped"
    stop_after(2, **estimated)
    resumed = dpjax.finetune(**estimated, resume=True)
    assert weights(resumed.output_dir) == weights(run.output_dir)


@pytest.mark.slow
def test_a_plan_counts_forward_passes(estimated):
    del estimated["output_dir"]
    plans = {}
    for gradient in ("zeroth-order", "backward"):
        training = dict(estimated["training"])
        if gradient == "backward":
            training = {
                k: v for k, v in training.items() if k not in ("gradient", "num_directions")
            }
        plans[gradient] = dpjax.plan(**estimated | {"tuning": "full", "training": training})
    zeroth, backward = (plans[name].model.memory for name in ("zeroth-order", "backward"))
    assert "no backward pass" in plans["zeroth-order"].model.choices[-1]
    # Two sums, a step's key and counts, and a unit of each leaf; no sum for each parameter.
    assert zeroth.sums < 1000 < backward.sums
    assert zeroth.optimizer < 10 and zeroth.peak < backward.peak


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy": {"head_clip_norm": 1.0}, "tuning": "lora"}, "privacy.head_clip_norm=1.0 does"),
        ({"training": {"optimizer": "adam-bc", "momentum": 0.9}}, "optimizer=adam-bc does not go"),
        ({"tuning": "lora", "lora": {"gauge": "tangent"}}, "lora.gauge=tangent does not go with"),
        ({"privacy": {"noise": "banded", "bands": 2, "neighboring": "zero_out"}}, "noise=banded"),
        ({"training": {"gradient": "backward"}}, "num_directions is for training.gradient=zeroth"),
        ({"training": {"smoothing": -1.0}}, "training.smoothing must be"),
    ],
)
def test_what_does_not_fit_is_refused(changes, words, estimated):
    for name, value in changes.items():
        old = estimated.get(name, {})
        estimated[name] = old | value if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=words):
        check(estimated)


def test_without_privacy_it_is_refused(estimated):
    del estimated["privacy"]
    with pytest.raises(ValueError, match="non_private=True does not go with"):
        check(estimated | {"non_private": True})
