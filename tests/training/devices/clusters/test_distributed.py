"""Several processes are joined before any device is used, and once."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from rich.console import Console

import dpjax
from tests.support.processes import free_port, wait_for
from tests.training.devices.clusters.test_detection import GIVEN, SLURM


@pytest.fixture
def calls(monkeypatch):
    """What `jax.distributed.initialize` is called with; afterwards it counts as initialized."""
    made = []
    for name in [*GIVEN, *SLURM, "JAX_LOCAL_DEVICE_IDS"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: made.append(options))
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: bool(made))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    return made


def set_all(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def join(*args, **options):
    """What is said."""
    console = Console(file=io.StringIO(), width=200)
    dpjax.initialize_distributed(*args, **options, console=console)
    return console.file.getvalue()


def test_it_is_never_done_twice(calls, monkeypatch):
    set_all(monkeypatch, GIVEN)
    said = join()
    assert said.startswith("the address that was given: 4 processes, this is number 3 and waits")
    assert said.count("\n") == 1
    assert join() == join(coordinator_address="node2:1", num_processes=2, process_id=0) == ""
    whole = {"coordinator_address": "node1:1234", "num_processes": 4, "process_id": 3}
    assert calls == [{"cluster_detection_method": "deactivate"} | whole]


def test_one_process_and_off_do_nothing(calls, monkeypatch):
    assert join() == ""
    set_all(monkeypatch, GIVEN)
    assert join("off") == ""
    assert calls == []


def test_a_process_that_is_alone_on_its_host_takes_all_gpus(calls, monkeypatch):
    set_all(monkeypatch, SLURM | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "4"})
    assert join().startswith("SLURM: 4 processes, this is number 2")
    slurm = {"cluster_detection_method": "slurm", "num_processes": 4, "process_id": 2}
    assert calls == [slurm | {"local_device_ids": []}]
    calls.clear()
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0,1")
    join()
    assert calls == [slurm]


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        (["on"], {}, "mode must be .*auto.*off.*got 'on'"),
        (["off"], {"process_id": 1}, "mode must be auto where processes are given"),
        ([], {"process_id": 1}, "must be given together, got coordinator_address=None"),
    ],
)
def test_what_does_not_fit_is_refused(calls, args, options, words):
    with pytest.raises(ValueError, match=words):
        join(*args, **options)
    assert calls == []


def test_a_device_that_was_used_before_is_an_error(monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    jax.devices()
    with pytest.raises(RuntimeError, match=r"it has used one: call dpjax\.initialize_distributed"):
        join(coordinator_address="localhost:1", num_processes=2, process_id=1)
    assert not jax.distributed.is_initialized()


def in_two_processes(*environments):
    """What each of two processes with these variables prints in its last line."""
    script = Path(__file__).with_name("joins_processes.py")
    outside = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    started = [
        subprocess.Popen(
            [sys.executable, script],
            env=outside | {"JAX_PLATFORMS": "cpu"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    ended = wait_for(started, timeout=120)
    for process, (_, said) in zip(started, ended, strict=True):
        assert process.returncode == 0, said[-3000:]
    return [json.loads(printed.splitlines()[-1]) for printed, _ in ended]


def check_joined(found, system):
    for number, one in enumerate(found):
        assert one["said"].startswith(f"{system}: 2 processes, this is number {number}")
        assert (one["number"], one["count"], one["sum"]) == (number, 2, 3.0)
        assert not one["device at import"]
        # JAX's own handler would have taken the signal away from the run.
        assert one["signals"] == 1


def test_two_processes_of_a_slurm_step_train_together():
    step = SLURM | {"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "localhost"}
    step |= {"JAX_COORDINATOR_PORT": str(free_port())}
    found = in_two_processes(*(step | {"SLURM_PROCID": str(i)} for i in range(2)))
    check_joined(found, "SLURM")


@pytest.mark.slow
def test_two_processes_with_the_variables_of_jax_train_together():
    given = GIVEN | {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}"}
    given |= {"JAX_NUM_PROCESSES": "2"}
    found = in_two_processes(*(given | {"JAX_PROCESS_ID": str(i)} for i in range(2)))
    check_joined(found, "the address that was given")
