"""Runs with training.gradient=zeroth-order: private, resumable, and said in the report."""

import json

import pytest

import dpjax
from tests.support.runs import check, weights

ESTIMATED = {"gradient": "zeroth-order", "num_directions": 2, "optimizer": "sgd", "momentum": 0.0}


@pytest.fixture
def estimated(cheap_options, tmp_path):
    training = cheap_options["training"] | ESTIMATED
    return cheap_options | {"training": training, "output_dir": tmp_path / "run"}


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
