"""Evaluation while training goes on, and who is told of the steps."""

import importlib.util
import json

import pytest

import dpjax
from dpjax.finetuning import FinetuneConfig, Tracking, execute, set_up


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
    cheap_options, tmp_path, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tracking = {"wandb_project": "tuning"}
    with pytest.raises(ValueError, match=r"tracking\.wandb_project=tuning needs .*dpjax\[wandb\]"):
        dpjax.finetune(**cheap_options, output_dir=tmp_path / "run", tracking=tracking)
    assert not (tmp_path / "run").exists()


def test_private_metrics_go_with_a_project():
    with pytest.raises(ValueError, match=r"goes with tracking\.wandb_project"):
        Tracking(wandb_private_metrics=True)
