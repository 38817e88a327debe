"""Run as a script, one process of two with two CPU devices each: `fit` with a folder, as JSON.

Arguments: the number of the process, the port of process 0, what to do, and a folder. Process 1 is
given another folder, which it must leave alone.
"""

import json
import os
import signal
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
)

import jax
import numpy as np
from rich.console import Console

import dpjax
from dpjax.training.devices.lead import whole_on_host
from dpjax.training.fitting.stored import stored_run
from tests.training.devices.toy_model import make_options

QUIET = Console(quiet=True)
MIDDLE = 7


def start(folder, number, **changes):
    options = make_options() | {"mesh": "data=2,fsdp=2", "checkpoint_every_steps": 3} | changes
    own = folder if number == 0 else folder.with_name("untouched")
    return dpjax.fit(**options, output_dir=own)


def bits(params):
    host = whole_on_host(params)
    return {name: np.asarray(value).view(np.uint32).tolist() for name, value in host.items()}


def whole(folder, number):
    ledger = folder.with_name("ledger") if number == 0 else Path("no such folder") / "ledger"
    result = start(folder, number, ledger=ledger).run(QUIET)
    total = result.privacy["dataset_total"]["epsilon"]
    return {"bits": bits(result.params), "epsilon": result.epsilon, "total": total}


def left_early(folder, number):
    run = start(folder, number)
    for done in run:
        if done.step == MIDDLE:
            break
    early = run.result().privacy["steps_completed"]
    again = start(folder, number, resume=True)
    return {"early": early, "at": again.steps_completed, "bits": bits(again.run(QUIET).params)}


def stopped(folder, number):
    """A signal in the middle, at the process that keeps no files."""
    run, steps = start(folder, number), []
    try:
        for done in run:
            steps.append(done.step)
            if number == 1 and done.step == MIDDLE:
                os.kill(os.getpid(), signal.SIGTERM)
    except dpjax.training.RunInterrupted as error:
        return {"steps": steps, "said": str(error), "signal": error.signal_number}


def failing(folder, number):
    """The disk of the lead is full in the middle."""

    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    run, steps, write = start(folder, number), [], stored_run.write_json
    try:
        for done in run:
            steps.append(done.step)
            if done.step == MIDDLE:
                stored_run.write_json = no_space
    except OSError as error:
        return {"steps": steps, "kind": type(error).__name__, "said": str(error)}
    finally:
        stored_run.write_json = write


def refused(folder, number):
    try:
        start(folder, number)
    except FileExistsError as error:
        return str(error)


def two_keys(folder, number):
    try:
        start(folder, number, run_key=dpjax.RunKey.from_seed(number))
    except ValueError as error:
        return str(error)


def killed(folder, number):
    """Process 1 is killed in the middle; the other one is ended by JAX."""
    # Two steps after the last state that is stored.
    for done in start(folder, number, checkpoint_every_steps=MIDDLE - 2):
        if number == 1 and done.step == MIDDLE:
            os.kill(os.getpid(), signal.SIGKILL)


def resumed(folder, number):
    run = start(folder, number, resume=True)
    return {"at": run.steps_completed, "bits": bits(run.run(QUIET).params)}


def main():
    number, port, cases, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}", num_processes=2, process_id=number, heartbeat_timeout_seconds=10
    )
    found = {}
    for case in cases.split(","):
        name, _, within = case.partition(":")
        found[name] = globals()[name](folder / (within or name) / "run", number)
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
