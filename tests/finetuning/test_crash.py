"""A run that is killed at any moment, or that the disk refuses, ends as if nothing had happened."""

import errno
import os
import subprocess
import sys
import time

import pytest
from dpjax_accounting import safe_files

import dpjax
from dpjax.finetuning import after_training, run
from dpjax.finetuning.files.run_directory import RunDirectory, RunState
from dpjax.finetuning.reports import run_report
from dpjax.finetuning.training import whole_model
from dpjax.training import RunStopped
from dpjax.training import loop as loop_of_all
from dpjax.training.files import array_folder, metrics_log
from dpjax.training.files.checkpoints import Checkpoints
from tests.support.snapshots import Snapshots


def weights(folder):
    return (folder / "model" / "model.safetensors").read_bytes()


def losses(result):
    return [row["loss"] for row in result.metrics]


REPORTS = frozenset({"privacy.html", "attack.json", "training.png", "roc.png", "report.md"})


def draw_nothing(*_, **__):
    return "nothing"


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing(cheap_options, whole, tmp_path, monkeypatch):
    """Every state of the folder that a kill can leave is resumed, and has the same result."""
    # Not what is compared, and slow.
    monkeypatch.setattr(after_training, "report_page", draw_nothing)
    for name in ("plot_training", "plot_roc"):
        monkeypatch.setattr(run_report, name, draw_nothing)
    training = cheap_options["training"] | {"checkpoint_every_seconds": 1e-9}
    options = cheap_options | {"training": training}
    snapshots = Snapshots(tmp_path / "run", tmp_path / "snapshots", REPORTS)
    with monkeypatch.context() as patch:
        snapshots.patch(patch)
        dpjax.finetune(**options, output_dir=tmp_path / "run")
    states = {}
    for folder in snapshots.taken.values():
        state = RunDirectory(folder).state()
        states[state] = states.get(state, 0) + 1
        if state is RunState.FINISHED:
            with pytest.raises(FileNotFoundError, match="a finished run"):
                dpjax.finetune(**options, output_dir=folder, resume=True)
        else:
            result = dpjax.finetune(**options, output_dir=folder, resume=True)
            assert losses(result) == losses(whole) and result.warnings == ()
            assert result.eval_accuracy == whole.eval_accuracy
        assert weights(folder) == weights(whole.output_dir)
        assert not (folder / "private").exists()
        assert not list(folder.rglob("*.partial"))
    assert states[RunState.NOT_STARTED] >= 4
    assert states[RunState.UNFINISHED] >= 10
    assert states[RunState.MEASURED] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("rows", [0, 2])
def test_a_killed_process_is_resumed_bit_for_bit(cheap_options, whole, tmp_path, rows):
    """A real process and a real SIGKILL, once before the first checkpoint and once later."""
    code = (
        "import ast, sys, dpjax; options = ast.literal_eval(sys.argv[1]);dpjax.finetune(**options)"
    )
    folder = tmp_path / "run"
    training = cheap_options["training"] | {"checkpoint_every_seconds": 1e-9}
    options = cheap_options | {"training": training, "output_dir": str(folder)}
    plain = {
        name: value if isinstance(value, dict | int | str) else str(value)
        for name, value in options.items()
    }
    with subprocess.Popen(
        [sys.executable, "-c", code, repr(plain)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and not _is_far_enough(folder, rows):
            time.sleep(0.002)
        process.kill()
        said = process.communicate()[1].decode()
    assert process.returncode == -9, said
    result = dpjax.finetune(**options, resume=True)
    # The other process had the programs of this one, compiled in the same way.
    assert weights(folder) == weights(whole.output_dir) and losses(result) == losses(whole)
    assert not (folder / "private").exists()


def _is_far_enough(folder, rows):
    metrics = folder / "metrics.jsonl"
    if not rows:
        return (folder / "private" / "run_key.json").exists()
    return metrics.exists() and len(metrics.read_bytes().splitlines()) >= rows


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("place", "when"),
    [
        ((run, "write_json"), "before a step was done"),
        ((metrics_log, "_line"), "in training"),
        ((array_folder, "finish_folder"), "in training"),
        ((whole_model, "save_model"), "while the tuned model was being written"),
        ((whole_model, "finish_folder"), "while the tuned model was being written"),
    ],
)
def test_a_full_disk_is_one_sentence_and_resumable(
    cheap_options, whole, tmp_path, monkeypatch, place, when
):
    options = cheap_options | {"output_dir": tmp_path / "run"}
    with monkeypatch.context() as patch:
        patch.setattr(*place, no_space)
        with pytest.raises(RunStopped, match=f"{when}: .*No space left") as stopped:
            dpjax.finetune(**options)
    assert "make room on the disk, and the same command with --resume" in str(stopped.value)
    result = dpjax.finetune(**options, resume=True)
    assert weights(result.output_dir) == weights(whole.output_dir)
    assert losses(result) == losses(whole)


def test_half_a_line_is_not_left_by_a_full_disk_and_dropped_after_a_crash(tmp_path):
    path = tmp_path / "metrics.jsonl"
    row = {"step": 1, "loss": 0.5}
    with metrics_log.MetricsLog(path) as log:
        log.append(row)
        write = log._file.write

        class Full:
            def __init__(self, file):
                self.file = file

            def write(self, data):
                write(data[:5])
                no_space()

            def __getattr__(self, name):
                return getattr(self.file, name)

        log._file = Full(log._file)
        with pytest.raises(OSError, match="No space"):
            log.append({"step": 2, "loss": 0.4})
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n'
    path.write_text(path.read_text() + '{"step": 2, "lo')
    with metrics_log.MetricsLog(path, keep_steps=2) as log:
        assert log.rows == [row] and log.num_missing == 1
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n'


def test_a_file_that_could_not_be_written_leaves_no_half_of_itself(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    safe_files.write_text(path, "old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        safe_files.write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_the_state_is_stored_while_training_goes_on(cheap_options, tmp_path, monkeypatch):
    """What a step spent is on record before the state that it led to is."""
    events = []
    save = Checkpoints.save

    def saved(self, step, state):
        privacy = (self.folder.parent.parent / "privacy.json").read_text()
        events.append((step, f'"steps_completed": {step}' in privacy))
        save(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", saved)
    training = cheap_options["training"] | {"checkpoint_every_seconds": 1e-9}
    dpjax.finetune(**cheap_options | {"training": training}, output_dir=tmp_path / "often")
    assert len(events) > 1 and events[-1] == (4, True) and all(on_record for _, on_record in events)
    events.clear()
    dpjax.finetune(**cheap_options, output_dir=tmp_path / "seldom")
    assert events == [(4, True)]


def test_a_run_that_fails_before_anything_is_saved_forgets_its_secrets(
    cheap_options, whole, tmp_path, monkeypatch
):
    options = cheap_options | {"output_dir": tmp_path / "run"}

    def fault(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(loop_of_all, "_done", fault)
        with pytest.raises(ZeroDivisionError):
            dpjax.finetune(**options)
    assert not (tmp_path / "run" / "private").exists()
    for again in ({}, {"resume": True}):
        with pytest.raises(OSError, match="--overwrite"):
            dpjax.finetune(**options, **again)
    result = dpjax.finetune(**options, overwrite=True)
    assert weights(result.output_dir) == weights(whole.output_dir)
    with pytest.raises(FileExistsError, match="holds a tuned model"):
        dpjax.finetune(**options, overwrite=True)
