"""Once the model is written, nothing that fails or is interrupted can take it away."""

import dataclasses
import json
import shutil
import signal

import pytest
from dpjax_accounting import verify_report

import dpjax
from dpjax.finetuning import after_training, run
from dpjax.finetuning.after_training import STAGES, Stages
from dpjax.finetuning.files.run_directory import RunDirectory
from dpjax.finetuning.reports import run_report
from dpjax.finetuning.training import attack, loop
from dpjax.training import Interrupts, PrivateFolder, RunInterrupted


def fail(*_, **__):
    raise ZeroDivisionError("of all things\nover two lines")


# Each stage by what it calls.
PLACES = {
    "privacy.html": (after_training, "report_page"),
    "the check of adapter/": (after_training, "_check_adapter"),
    "the evaluation on held-out records": (after_training, "evaluate"),
    "the evaluation before tuning": (after_training, "_accuracy_before"),
    "the evaluation of clients": (after_training, "_evaluate_clients"),
    "the attack": (attack, "loss_attack"),
    "attack.json": (after_training, "write_json"),
    "the audit": (after_training, "_audit"),
    "audit.json": (after_training, "_write_audit"),
    "audit.html": (after_training, "_write_audit_page"),
    "the answers to held-out prompts": (after_training, "write_samples"),
    "training.png": (run_report, "plot_training"),
    "roc.png": (run_report, "plot_roc"),
    "report.md": (run_report, "_markdown"),
    "the note of the results": (after_training, "store_result"),
}


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch):
    """Pictures that nobody looks at are drawn elsewhere."""
    monkeypatch.setattr(after_training, "report_page", lambda privacy: "a page")
    monkeypatch.setattr(run_report, "plot_training", lambda steps, losses, path, **_: path.touch())
    monkeypatch.setattr(run_report, "plot_roc", lambda results, path, **_: path.touch())


def weights(folder):
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def measured(cheap_options, tmp_path_factory):
    """What `measure` is called with in a run, and the folder as it is then."""
    calls, folder = [], tmp_path_factory.mktemp("measured") / "run"

    def measure(*arguments):
        shutil.copytree(folder, folder.with_name("before"))
        calls.append(arguments)
        return after_training.measure(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "measure", measure)
        dpjax.finetune(**cheap_options, output_dir=folder)
    return calls[0][:-1], folder.with_name("before")


def measure_again(measured, tmp_path):
    """Measures in a copy of the folder; returns the folder and the result."""
    (started, tuned, privacy, trained), before = measured
    folder = tmp_path / "run"
    shutil.copytree(before, folder)
    stages = Stages(Interrupts())
    copied = dataclasses.replace(started, directory=RunDirectory(folder))
    result = after_training.measure(copied, tuned, privacy, trained, stages)
    assert stages.left == []
    return folder, result


def test_every_stage_is_tested():
    assert tuple(PLACES) == STAGES


def test_a_run_without_failures_has_no_warnings(measured, whole, tmp_path):
    _, result = measure_again(measured, tmp_path)
    assert result.warnings == whole.warnings == ()
    assert result.eval_accuracy == whole.eval_accuracy and result.attack.auc == whole.attack.auc


def test_what_training_remarked_is_in_the_report(measured, tmp_path):
    (started, tuned, privacy, trained), before = measured
    remarked = dataclasses.replace(trained, remarks=("no gradient for the head",))
    folder, result = measure_again(((started, tuned, privacy, remarked), before), tmp_path)
    assert result.warnings == ("no gradient for the head",)
    assert "no gradient for the head" in (folder / "report.md").read_text()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_fails_is_a_sentence(measured, tmp_path, monkeypatch, stage):
    monkeypatch.setattr(*PLACES[stage], fail)
    folder, result = measure_again(measured, tmp_path)
    sentence = f"{stage} failed: ZeroDivisionError: of all things over two lines"
    assert result.warnings[0] == sentence
    assert verify_report(json.loads((folder / "privacy.json").read_text())) == []
    text = (folder / "report.md").read_text()
    assert (sentence in text) == (stage != "the note of the results")
    assert "-differential privacy per record" in text
    missing = {"privacy.html", "training.png", "roc.png", "attack.json"} & {stage}
    assert not any((folder / name).exists() for name in missing)
    assert all(f"({name})" not in text for name in missing)


def test_all_of_it_may_fail_and_the_run_is_done(
    cheap_options, whole, tmp_path, monkeypatch, capsys
):
    for place in PLACES.values():
        monkeypatch.setattr(*place, fail)
    result = dpjax.finetune(**cheap_options, output_dir=tmp_path / "run")
    assert [warning.split(" failed")[0] for warning in result.warnings if "failed" in warning] == [
        # Without an evaluation there is no attack to write or to draw.
        stage
        for stage in STAGES
        if stage not in ("the attack", "attack.json", "roc.png")
    ]
    assert (result.eval_accuracy, result.eval_loss, result.attack) == (None, None, None)
    assert weights(result.output_dir) == weights(whole.output_dir)
    assert result.epsilon == whole.epsilon
    assert not (result.output_dir / "private").exists()
    said = capsys.readouterr().out
    assert all(f"WARNING: {warning}" in said for warning in result.warnings)
    assert "privacy.html failed" in (result.output_dir / "report.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_evaluation_is_finished_without_training(
    cheap_options, whole, tmp_path, monkeypatch, number
):
    options = cheap_options | {"output_dir": tmp_path / "run"}

    def interrupt(*_):
        signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(attack, "loss_attack", interrupt)
        with pytest.raises(RunInterrupted, match=r"left are the attack, .*--resume") as stopped:
            dpjax.finetune(**options)
    assert (stopped.value.step, stopped.value.signal_number) == (4, number)
    assert weights(options["output_dir"]) == weights(whole.output_dir)

    def no_step(*_):
        raise AssertionError("a step was done again")

    monkeypatch.setattr(loop.TrainingProgress, "update", no_step)
    result = dpjax.finetune(**options, resume=True)
    assert weights(result.output_dir) == weights(whole.output_dir)
    assert result.attack.auc == whole.attack.auc and result.warnings == ()
    assert not (result.output_dir / "private").exists()


def test_a_run_stopped_while_its_secrets_are_deleted_still_has_its_result(
    cheap_options, whole, tmp_path, monkeypatch
):
    options = cheap_options | {"output_dir": tmp_path / "run"}
    empty = PrivateFolder.empty

    def stop(self, keep=()):
        empty(self, keep)
        if keep and keep[0].exists():
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(PrivateFolder, "empty", stop)
        with pytest.raises(RunInterrupted, match=r"private/ was being deleted.*--resume"):
            dpjax.finetune(**options)
    assert not (tmp_path / "run" / "private" / "run_key.json").exists()
    result = dpjax.finetune(**options, resume=True)
    assert not (tmp_path / "run" / "private").exists()
    for field in dataclasses.fields(result):
        if field.name.startswith("eval_") or field.name in ("epsilon", "delta", "warnings"):
            assert getattr(result, field.name) == getattr(whole, field.name)
    assert result.attack.auc == whole.attack.auc
    assert [row["loss"] for row in result.metrics] == [row["loss"] for row in whole.metrics]
