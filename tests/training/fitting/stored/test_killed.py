"""A run of `fit` that is killed at any moment ends as if nothing had happened."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dpjax_accounting import Ledger
from safetensors.numpy import load_file

import dpjax
from dpjax.training.fitting.stored.directory import FitDirectory, FitState
from tests.support.snapshots import Snapshots
from tests.training.fitting.stored.small_fit import DELTA, MECHANISM, make_options

NUM_KILLS = 20
PROGRAM = Path(__file__).with_name("small_fit.py")


def run_program(folder, seen, seconds=None):
    environment = os.environ | {"DPJAX_ACCOUNTING_CACHE": str(folder.parent / "answers")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    arguments = [str(folder), str(seen), *([] if seconds is None else [f"{seconds:.3f}"])]
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], env=environment, capture_output=True, text=True
    )


def read_seen(path):
    if not path.exists():
        return []
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(int(line[0]), line[1]) for line in lines if len(line) == 2]


def check_on_record(folder, num_seen):
    """What somebody was shown is in privacy.json and in the ledger."""
    if not num_seen:
        return
    privacy = json.loads((folder / "privacy.json").read_text())
    assert privacy["steps_completed"] >= num_seen
    spent = MECHANISM.after(num_seen).epsilon(DELTA)
    assert privacy["guarantee"]["epsilon"] >= spent
    assert Ledger(f"{folder}.ledger").epsilon(DELTA) >= spent


@pytest.mark.slow
def test_a_process_killed_twenty_times_is_resumed_bit_for_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run_program(whole, tmp_path / "seen_whole")
    assert done.returncode == 0, done.stderr
    expected = dict(read_seen(tmp_path / "seen_whole"))
    assert len(expected) == MECHANISM.num_steps
    moments = random.Random(0)
    num_killed = 0
    for _ in range(NUM_KILLS):
        done = run_program(killed, tmp_path / "seen", moments.uniform(0.1, 2.5))
        num_killed += done.returncode == -9
        seen = read_seen(tmp_path / "seen")
        assert all(expected[step] == params for step, params in seen)
        check_on_record(killed, max((step for step, _ in seen), default=0))
        if FitDirectory(killed).state() is FitState.FINISHED:
            shutil.rmtree(killed)
            for path in tmp_path.glob("killed.ledger*"):
                path.unlink()
            (tmp_path / "seen").unlink()
    assert num_killed >= NUM_KILLS / 2
    done = run_program(killed, tmp_path / "seen")
    assert done.returncode == 0, done.stderr
    seen = dict(read_seen(tmp_path / "seen"))
    # Killed once its results are written, a run shows its last step to nobody.
    seen.setdefault(MECHANISM.num_steps, expected[MECHANISM.num_steps])
    assert seen == expected
    names = sorted(path.name for path in killed.iterdir())
    assert names == ["metrics.jsonl", "params.safetensors", "privacy.html", "privacy.json"]
    final = [load_file(folder / "params.safetensors")["w"].tolist() for folder in (whole, killed)]
    assert final[0] == final[1]
    (entry,) = Ledger(f"{killed}.ledger").entries()
    assert entry.num_steps == MECHANISM.num_steps


@pytest.mark.slow
def test_every_state_of_the_folder_is_resumed(tmp_path, monkeypatch):
    options = make_options(run_key=dpjax.RunKey.from_seed(3), checkpoint_every_steps=2)
    expected = dpjax.fit(**options | {"checkpoint_every_steps": None}).run().params["w"].tolist()
    snapshots = Snapshots(tmp_path / "run", tmp_path / "snapshots")
    with monkeypatch.context() as patch:
        snapshots.patch(patch)
        dpjax.fit(**options, output_dir=tmp_path / "run").run()
    states = {}
    for folder in snapshots.taken.values():
        state = FitDirectory(folder).state()
        states[state] = states.get(state, 0) + 1
        if state is FitState.FINISHED:
            with pytest.raises(FileNotFoundError, match="a finished run"):
                dpjax.fit(**options, output_dir=folder, resume=True)
        else:
            result = dpjax.fit(**options, output_dir=folder, resume=True).run()
            assert result.params["w"].tolist() == expected
            assert len(result.metrics) == MECHANISM.num_steps
        assert load_file(folder / "params.safetensors")["w"].tolist() == expected
        assert not (folder / "private").exists() and not list(folder.rglob("*.partial*"))
    assert states[FitState.NOT_STARTED] >= 3 and states[FitState.UNFINISHED] >= 10


def test_a_record_that_lags_is_caught(tmp_path):
    """The planted bug: privacy.json counts fewer steps than were shown."""
    folder = tmp_path / "run"
    for done in dpjax.fit(**make_options(), output_dir=folder, ledger=f"{folder}.ledger"):
        check_on_record(folder, done.step)
        if done.step == 3:
            break
    path = folder / "privacy.json"
    privacy = json.loads(path.read_text())
    path.write_text(json.dumps(privacy | {"steps_completed": 2}))
    with pytest.raises(AssertionError):
        check_on_record(folder, 3)
