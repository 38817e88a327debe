"""Disks that are full, and folders that are gone or cannot be written."""

import errno
import gc
import os
import time

import pytest

from dpjax.training import RunStoppedByFiles
from dpjax.training.files import array_folder, metrics_log
from dpjax.training.fitting.stored import record, states, stored_run
from tests.training.fitting.stored.small_fit import (
    DELTA,
    MECHANISM,
    QUIET,
    WHOLE,
    fit,
    leave_after,
    steps_on_record,
)


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "place",
    [
        (stored_run, "write_json"),
        (metrics_log, "_line"),
        (array_folder, "finish_folder"),
        (states, "finish_file"),
        (stored_run, "report_page"),
    ],
)
def test_a_full_disk_is_one_sentence_and_earlier_states_stay(whole, left, monkeypatch, place):
    with monkeypatch.context() as patch:
        patch.setattr(*place, no_space)
        # The state after the steps of the interrupted run, and no other, is needed to go on.
        patch.setattr(record, "_GROWTH", 1)
        with pytest.raises(RunStoppedByFiles, match=r"No space left.*make room on the disk"):
            fit(left, resume=True).run(QUIET)
    assert not list(left.rglob("*.partial*"))
    assert fit(left, resume=True).run(QUIET).params["w"].tolist() == whole


@pytest.mark.slow
def test_a_state_that_cannot_be_stored_on_leaving_is_a_warning_and_then_an_error(
    whole, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(array_folder, "finish_folder", no_space)
        with pytest.warns(
            RuntimeWarning, match=r"the state after step 2 is not stored: .*No space"
        ):
            run = leave_after(2, folder)
        with pytest.raises(RunStoppedByFiles, match="while it was being left"):
            run.result()
    assert steps_on_record(folder) >= 2
    assert run.result().epsilon == MECHANISM.after(2).epsilon(DELTA)
    assert fit(folder, resume=True).steps_completed == 2


@pytest.mark.slow
# Writes of orbax that are still under way then find its event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_folder_that_is_deleted_meanwhile_is_an_error(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(RunStoppedByFiles, match="No such file"):
        for done in fit(folder, checkpoint_every_steps=1):
            if done.step == 2:
                folder.rename(tmp_path / "moved")
    # They end here, and not in the next test.
    time.sleep(0.5)
    gc.collect()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", read_only)
    with pytest.raises(OSError, match="Read-only file system"):
        next(iter(fit(tmp_path / "run")))


@pytest.mark.slow
def test_a_page_that_cannot_be_drawn_does_not_keep_a_run_from_its_end(whole, tmp_path, monkeypatch):
    def fails(_):
        raise ZeroDivisionError("no picture")

    monkeypatch.setattr(stored_run, "report_page", fails)
    folder = tmp_path / "run"
    with pytest.warns(RuntimeWarning, match=r"privacy\.html failed: ZeroDivisionError: no picture"):
        result = fit(folder).run(QUIET)
    assert result.params["w"].tolist() == whole and result.epsilon == WHOLE
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["metrics.jsonl", "params.safetensors", "privacy.json"]
