"""`fit` with a folder: what is in it, when it is written, and how it ends and goes on."""

import dataclasses
import errno
import json
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import Ledger, verify_report
from safetensors.numpy import load_file

import dpjax
from dpjax.training import RunInUse, RunStoppedByFiles
from dpjax.training.fitting.stored import record, stored_run
from tests.training.fitting.stored.small_fit import (
    DELTA,
    KEY,
    MECHANISM,
    NUM,
    QUIET,
    WHOLE,
    fit,
    leave_after,
    make_options,
    steps_on_record,
)


def test_a_whole_run_leaves_its_results_and_no_secret(whole, tmp_path):
    folder, ledger = tmp_path / "run", tmp_path / "ledger"
    result = fit(folder, ledger=ledger).run(QUIET)
    assert result.params["w"].tolist() == whole
    assert load_file(folder / "params.safetensors")["w"].tolist() == whole
    names = ["metrics.jsonl", "params.safetensors", "privacy.html", "privacy.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    privacy = json.loads((folder / "privacy.json").read_text())
    assert privacy["status"] == "complete" and verify_report(privacy, Ledger(ledger)) == []
    assert result.epsilon == privacy["guarantee"]["epsilon"] == WHOLE
    assert privacy["dataset_total"]["epsilon"] == pytest.approx(WHOLE)
    assert not any("going on" in warning for warning in privacy["warnings"])
    assert len(result.metrics) == len((folder / "metrics.jsonl").read_text().splitlines())
    for changes, error, words in (
        ({"resume": True}, FileNotFoundError, "holds a finished run, whose parameters are in"),
        ({}, FileExistsError, "holds another run; name a new folder$"),
        ({"overwrite": True}, FileExistsError, "holds trained parameters"),
    ):
        with pytest.raises(error, match=words):
            fit(folder, **changes)


def test_steps_are_on_record_before_they_are_shown(tmp_path):
    folder = tmp_path / "run"
    for done in fit(folder, ledger=tmp_path / "ledger"):
        assert steps_on_record(folder) >= done.step
        assert Ledger(tmp_path / "ledger").epsilon(DELTA) == pytest.approx(WHOLE)
        privacy = json.loads((folder / "privacy.json").read_text())
        assert (privacy["status"] == "complete") == (done.step == MECHANISM.num_steps)
        assert verify_report(privacy) == []


@pytest.mark.slow
def test_a_step_that_cannot_be_put_on_record_is_not_done(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "_GROWTH", 1)
    run, steps = fit(tmp_path / "run"), []

    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunStoppedByFiles, match="make room on the disk, and fit with resume=True"):
        for done in run:
            steps.append(done.step)
            if done.step == 2:
                monkeypatch.setattr(stored_run, "write_json", no_space)
    assert run.steps_completed == max(steps) == steps_on_record(tmp_path / "run")


def test_a_loop_that_is_left_can_be_resumed(whole, left):
    assert steps_on_record(left) == 4
    states = left / "private" / "checkpoint"
    assert json.loads((states / "latest.json").read_text())["states"][-1]["step"] == 4
    assert (left / "private").stat().st_mode & 0o777 == 0o700
    assert (left / "private" / "run_key.json").stat().st_mode & 0o777 == 0o600
    # Another process needs no key: the folder has it.
    run = fit(left, resume=True, run_key=None)
    assert run.steps_completed == 4 and [row["step"] for row in run.metrics] == [1, 2, 3, 4]
    shown = [done.step for done in run]
    assert shown == list(range(5, MECHANISM.num_steps + 1))
    assert run.result().params["w"].tolist() == whole
    assert len(run.result().metrics) == MECHANISM.num_steps


@pytest.mark.slow
def test_the_same_run_goes_on_unless_another_did(whole, tmp_path):
    folder = tmp_path / "run"
    run = leave_after(2, folder, ledger=tmp_path / "ledger")
    stopped = run.result()
    assert stopped.epsilon == MECHANISM.after(2).epsilon(DELTA)
    assert stopped.privacy["data_uses"][1]["status"] == "not covered"
    # Who leaves a loop may have seen the results: all steps stay charged.
    assert Ledger(tmp_path / "ledger").epsilon(DELTA) == pytest.approx(WHOLE)
    for done in run:
        if done.step == 3:
            break
    other = leave_after(5, folder, resume=True, ledger=tmp_path / "ledger")
    with pytest.raises(RunStoppedByFiles, match="another process has gone on with this run"):
        next(iter(run))
    assert other.run(QUIET).params["w"].tolist() == whole


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("step", [1, 5])
def test_a_copy_of_the_folder_as_a_kill_leaves_it_is_resumed(whole, tmp_path, step):
    """Taken while the loop is at a step: no state after it is stored, but it is on record."""
    for done in fit(tmp_path / "run"):
        if done.step == step:
            shutil.copytree(tmp_path / "run", tmp_path / "copy")
            break
    on_record = steps_on_record(tmp_path / "copy")
    run = fit(tmp_path / "copy", resume=True)
    assert run.steps_completed == 0 and on_record >= step
    for done in run:
        assert steps_on_record(tmp_path / "copy") >= on_record
        if done.step == 1:
            break
    # What the killed process may have shown still counts.
    assert run.result().epsilon == MECHANISM.after(on_record).epsilon(DELTA)
    assert steps_on_record(tmp_path / "copy") == on_record
    assert run.run(QUIET).params["w"].tolist() == whole


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_waited_for_and_the_state_stored(whole, tmp_path, number):
    run = fit(tmp_path / "run", ledger=tmp_path / "ledger")
    with pytest.raises(dpjax.RunInterrupted, match="stopped after step 4 of 12; fit with") as said:
        for done in run:
            if done.step == 3:
                signal.raise_signal(number)
    assert (said.value.step, said.value.signal_number) == (4, number)
    assert steps_on_record(tmp_path / "run") == 4
    spent = Ledger(tmp_path / "ledger").epsilon(DELTA)
    assert spent == pytest.approx(MECHANISM.after(4).epsilon(DELTA))
    run = fit(tmp_path / "run", resume=True, ledger=tmp_path / "ledger")
    assert run.steps_completed == 4
    assert run.run(QUIET).params["w"].tolist() == whole
    (entry,) = Ledger(tmp_path / "ledger").entries()
    assert entry.num_steps == MECHANISM.num_steps


@pytest.mark.slow
def test_no_run_does_more_steps_than_planned(left, tmp_path):
    run = fit(left, resume=True)
    assert [done.step for done in run][-1] == MECHANISM.num_steps
    assert list(run) == [] and run.steps_completed == MECHANISM.num_steps
    assert not (left / "private").exists()


def test_a_state_with_more_steps_than_planned_is_refused(left, monkeypatch):
    # As if the comparison of mechanisms had missed it.
    monkeypatch.setattr("dpjax.training.fitting.stored.open_run.check_same", lambda *_: None)
    shorter = dataclasses.replace(MECHANISM, num_steps=3)
    with pytest.raises(ValueError, match="4 steps are done, more than the 3 planned"):
        fit(left, resume=True, mechanism=shorter)


def cubes(params, record):
    return jnp.sum(jnp.abs(params["w"] * record["x"] - record["y"]) ** 3)


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": cubes}, "loss is not what"),
        ({"loss": lambda p, r: 2.0 * make_options()["loss"](p, r)}, "loss is not what"),
        ({"optimizer": optax.adam(0.2)}, "optimizer is not what"),
        ({"optimizer": optax.sgd(0.1)}, "optimizer state is not what.*optimizer is not what"),
        ({"params": {"w": jnp.ones(3)}}, "params are not what"),
        ({"clip_norm": 0.8}, "rule clip_norm was 0.7, now it is 0.8"),
        ({"delta": 2e-3}, "delta was 0.001, now it is 0.002"),
        ({"microbatch_size": 6}, "microbatch_size was 5, now it is 6"),
        ({"strategy": "materialize"}, "strategy was auto, now it is materialize"),
        ({"frozen": jnp.ones(3), "loss": lambda p, r, f: cubes(p, r)}, "frozen is not what"),
        ({"run_key": dpjax.RunKey.from_seed(4)}, "run_key is not that of the run"),
        (
            {"mechanism": dataclasses.replace(MECHANISM, num_steps=13), "microbatch_size": 6},
            "mechanism num_steps was 12, now it is 13; microbatch_size was 5",
        ),
    ],
)
def test_whatever_changes_sums_or_draws_is_refused(left, changes, words):
    with pytest.raises(ValueError, match=f"cannot resume.*{words}"):
        fit(left, resume=True, **changes)


@pytest.mark.slow
def test_other_data_are_refused(left):
    data = make_options()["data"]
    for changed in (data["x"][::-1].copy(), data["x"] + np.float32(1e-6)):
        with pytest.raises(ValueError, match="data is not what"):
            fit(left, resume=True, data=data | {"x": changed})


def test_other_software_is_refused(left, monkeypatch):
    module = "dpjax.training.environment"
    monkeypatch.setattr(f"{module}.version", lambda name: "9.9")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    with pytest.raises(ValueError, match=r"versions jax was .*, now it is 9\.9.*jax XLA_FLAGS"):
        fit(left, resume=True)


@pytest.mark.slow
def test_a_damaged_state_gives_way_to_the_one_before(whole, tmp_path):
    folder = tmp_path / "run"
    leave_after(5, folder, checkpoint_every_steps=2)
    states = folder / "private" / "checkpoint"
    (states / "step_5" / "manifest.ocdbt").write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="step_5 is damaged: the run goes on from the state"):
        run = fit(folder, resume=True)
    assert run.steps_completed in (2, 4)
    assert run.run(QUIET).params["w"].tolist() == whole


@pytest.mark.slow
def test_files_that_are_damaged_or_missing_are_named(left):
    key, what = left / "private" / "run_key.json", left / "private" / "identity.json"
    for path, words in ((what, "identity.json is damaged"), (key, "run_key.json is damaged")):
        contents = path.read_bytes()
        path.write_bytes(contents[:-9])
        with pytest.raises(ValueError, match=f"{words}.*overwrite=True"):
            fit(left, resume=True)
        path.write_bytes(contents)
    key.unlink()
    with pytest.raises(FileNotFoundError, match=r"run_key.json is missing.*overwrite=True"):
        fit(left, resume=True)
    (left / "privacy.json").unlink()
    with pytest.raises(FileNotFoundError, match="no run of fit"):
        fit(left, resume=True)


@pytest.mark.slow
def test_without_a_record_all_planned_steps_count(left):
    (left / "privacy.json").unlink()
    run = fit(left, resume=True)
    assert run.result().epsilon == WHOLE


def test_with_a_damaged_record_all_planned_steps_count(left):
    path = left / "privacy.json"
    path.write_bytes(path.read_bytes()[:200])
    assert fit(left, resume=True).result().epsilon == WHOLE


def test_a_folder_is_locked_while_it_is_used(whole, tmp_path):
    run = fit(tmp_path / "run")
    for done in run:
        if done.step == 2:
            for changes in ({}, {"resume": True}, {"overwrite": True}):
                with pytest.raises(RunInUse, match="in use by another process"):
                    fit(tmp_path / "run", **changes)
    assert run.result().params["w"].tolist() == whole


@pytest.mark.slow
def test_overwrite_deletes_an_unfinished_run(whole, left, tmp_path):
    with pytest.raises(FileExistsError, match=r"resume=True, to finish.*overwrite=True"):
        fit(left)
    (left / "letter.txt").write_text("dear")
    assert fit(left, overwrite=True).run(QUIET).params["w"].tolist() == whole
    assert (left / "letter.txt").exists()
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="files of no run of fit"):
        fit(tmp_path, overwrite=True)
    with pytest.raises(FileExistsError, match="holds no run of fit"):
        fit(tmp_path)


@pytest.mark.slow
def test_what_fails_in_its_first_step_is_settled_to_nothing(tmp_path):
    def loss(params, record):
        return squares(params["v"])

    def squares(_):
        raise AssertionError("never traced")

    with pytest.raises(KeyError, match="v"):
        fit(tmp_path / "run", loss=loss)
    assert not (tmp_path / "run").exists()

    class Table:
        def __init__(self):
            self.is_whole = True

        def __len__(self):
            return NUM

        def take(self, rows):
            if not self.is_whole:
                raise ZeroDivisionError
            return {name: column[rows] for name, column in make_options()["data"].items()}

    table = Table()
    run = fit(tmp_path / "run", data=table, ledger=tmp_path / "ledger")
    table.is_whole = False
    with pytest.raises(ZeroDivisionError):
        run.run(QUIET)
    assert Ledger(tmp_path / "ledger").epsilon(DELTA) == 0 == steps_on_record(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"resume": True}, TypeError, "resume needs output_dir"),
        ({"ledger": "x", "overwrite": True}, TypeError, "overwrite and ledger needs output_dir"),
        ({"output_dir": "x", "resume": True, "overwrite": True}, ValueError, "give one of them"),
        ({"output_dir": "x", "keep_checkpoints": 0}, ValueError, "keep_checkpoints must be above"),
        ({"output_dir": "x", "checkpoint_every_seconds": 0.0}, ValueError, "must be above 0"),
        ({"output_dir": "x", "ledger": "no/where"}, FileNotFoundError, "folder no does not exist"),
    ],
)
def test_options_of_the_folder_are_checked(changes, error, message):
    with pytest.raises(error, match=message):
        dpjax.fit(**make_options() | changes)


@pytest.mark.slow
def test_no_privacy_may_have_a_folder_but_no_ledger(tmp_path):
    recipe = dpjax.NoPrivacy(num_units=NUM, expected_batch_size=12, num_steps=4)
    bare = {"mechanism": recipe, "clip_norm": None, "delta": None}
    with pytest.raises(TypeError, match="leave out ledger"):
        fit(tmp_path / "run", ledger=tmp_path / "ledger", **bare)
    expected = dpjax.fit(**make_options(run_key=KEY) | bare).run(QUIET).params["w"].tolist()
    leave_after(2, tmp_path / "run", **bare)
    result = fit(tmp_path / "run", resume=True, **bare).run(QUIET)
    assert result.params["w"].tolist() == expected and result.epsilon is None
