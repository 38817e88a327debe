"""Evaluation while training goes on, and who is told of the steps."""

import json

import pytest

import dpjax
from dpjax.finetuning import FinetuneConfig, Tracking, execute, set_up
from dpjax.finetuning.reports import privacy_report
from dpjax.finetuning.training import loop


class Recorder:
    def __init__(self):
        self.rows, self.ends = [], 0

    def on_step(self, row):
        self.rows.append(row)

    def on_end(self):
        self.ends += 1


def test_the_model_is_measured_every_so_many_steps_and_stays_the_same(
    cheap_options, whole, tmp_path
):
    training = cheap_options["training"] | {"evaluate_every": 2}
    options = cheap_options | {"training": training, "output_dir": str(tmp_path / "run")}
    recorder = Recorder()
    config = FinetuneConfig.from_options(options | {"model": str(options["model"])})
    result = execute(set_up(config), callbacks=[recorder])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows == recorder.rows == result.metrics and recorder.ends == 1
    measured = {
        row["step"]: (row["eval_loss"], row["eval_accuracy"]) for row in rows if "eval_loss" in row
    }
    assert set(measured) == {2}
    assert measured[2] != (result.eval_loss, result.eval_accuracy)

    def weights(folder):
        return (folder / "model" / "model.safetensors").read_bytes()

    assert weights(result.output_dir) == weights(whole.output_dir)


def test_a_tracker_whose_package_is_missing_is_refused_before_anything(
    cheap_options, tmp_path, pretend_package
):
    pretend_package("wandb", None)
    tracking = {"wandb_project": "tuning"}
    with pytest.raises(ValueError, match=r"tracking\.wandb_project=tuning needs .*dpjax\[wandb\]"):
        dpjax.finetune(**cheap_options, output_dir=tmp_path / "run", tracking=tracking)
    assert not (tmp_path / "run").exists()


def test_private_metrics_go_with_a_project():
    with pytest.raises(ValueError, match=r"goes with tracking\.wandb_project"):
        Tracking(wandb_private_metrics=True)


def test_an_evaluation_that_fails_does_not_end_training(
    cheap_options, whole, tmp_path, monkeypatch
):
    def fails(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(loop, "evaluate", fails)
    training = cheap_options["training"] | {"evaluate_every": 1}
    result = dpjax.finetune(**cheap_options | {"training": training}, output_dir=tmp_path / "run")
    (warning,) = result.warnings
    assert warning.startswith("the evaluation after step 1 failed, and those after it were left")
    assert "MemoryError: no room" in warning
    assert result.eval_loss == whole.eval_loss


def test_the_privacy_report_says_what_trackers_were_given(cheap_options, tmp_path, pretend_package):
    pretend_package("wandb", True)
    options = cheap_options | {
        "output_dir": str(tmp_path / "run"),
        "model": str(cheap_options["model"]),
    }
    tracking = {
        "tensorboard": "curves",
        "wandb_project": "tuning",
        "wandb_private_metrics": True,
    }
    for given in ({}, tracking):
        run = set_up(FinetuneConfig.from_options(options | {"tracking": given}))
        report = privacy_report.build(run.plan, run.run_key, run.run_id, 0)
        uses = [use["use"] for use in report["data_uses"]]
        assert ("Metrics sent to Weights & Biases" in uses) == bool(given)
        assert any("TensorBoard" in kept for kept in report["trust"]["kept_secret"]) == bool(given)
