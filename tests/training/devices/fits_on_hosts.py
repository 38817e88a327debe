"""Run as a script, one process of two with four CPU devices each: `fit`, as JSON in the last line.

Arguments: the number of the process, the port of process 0, and "same" or "different": whether both
processes are given the same, and train, or what they say of what is different.
"""

import dataclasses
import importlib.util
import json
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
)

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

import dpjax
from dpjax.data import RecordsByOwner
from tests.training.devices.toy_model import CORRELATED, MECHANISM, make_options


class OwnRows:
    """Records that note which rows this process has read."""

    def __init__(self, arrays):
        self.arrays, self.most = arrays, 0

    def __len__(self):
        return len(self.arrays["x"])

    def take(self, rows):
        self.most = max(self.most, len(rows))
        return {name: array[rows] for name, array in self.arrays.items()}


def run(mesh, mechanism=MECHANISM):
    options = make_options(mechanism)
    options["data"] = OwnRows(options["data"])
    made = dpjax.fit(**options, mesh=mesh)
    result = made.run(Console(quiet=True))
    params = multihost_utils.process_allgather(result.params, tiled=True)
    return {
        "params": {name: np.asarray(value).tolist() for name, value in params.items()},
        "epsilon": result.epsilon,
        "most rows": options["data"].most,
    }


def start(case, number):
    """What a process reports of a run that has not begun."""
    options = make_options()
    if case == "new key":
        del options["run_key"]
    elif case == "owners":
        order = 1 if number == 0 else -1
        records = {name: array[::order] for name, array in options["data"].items()}
        options["data"] = RecordsByOwner(records, range(len(records["x"])), at_most=1)
    elif number == 1 and case == "data":
        options["data"]["x"][3, 2] += 1e-3
    elif number == 1 and case == "run keys":
        options["run_key"] = dpjax.RunKey.from_seed(8)
    elif number == 1 and case == "mechanisms":
        options["mechanism"] = dataclasses.replace(options["mechanism"], noise_multiplier=0.8)
    try:
        return dpjax.fit(**options).run_key.fingerprint()
    except ValueError as error:
        return str(error)


def main():
    number, port, case = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number)
    if case == "same":
        found = {mesh: run(mesh) for mesh in ("data=8", "fsdp=8")}
        if importlib.util.find_spec("jax_privacy") is not None:
            if number == 1:
                # What process 0 finds is for both: another machine may find other last digits.
                dpjax.BandedStrategy.optimized = None
            found["correlated"] = run("fsdp=8", CORRELATED)
    else:
        cases = ("new key", "data", "owners", "run keys", "mechanisms")
        found = {each: start(each, number) for each in cases}
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
