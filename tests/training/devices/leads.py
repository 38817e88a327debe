"""Run as a script, one process of two with two CPU devices each: what `lead` sends, as JSON.

Arguments: the number of the process, the port of process 0, a folder for a state.
"""

import json
import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dpjax.training import Checkpoints
from dpjax.training.devices.lead import (
    agree,
    agree_with_lead,
    from_lead,
    is_lead,
    placed_from_lead,
    telling_failures,
    whole_on_host,
)


def spread(host):
    mesh = jax.make_mesh((4,), ("data",))
    where = NamedSharding(mesh, PartitionSpec("data"))
    return jax.make_array_from_callback(host.shape, where, lambda part: host[part])


def refuse():
    raise FileExistsError("the folder is not empty")


def message_of(action):
    return message_of_call(lambda: from_lead(action))


def message_of_call(action):
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def fail():
    with telling_failures():
        raise FileExistsError("it was there")


def main():
    number, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number)
    called = []
    host = np.array([-0.0, 1.5, np.nan, -np.inf], np.float32)
    tree = {"spread": spread(host), "key": jax.random.key(3), "host": np.arange(3)}
    whole = whole_on_host(tree)
    empty = {
        "spread": spread(np.zeros(4, np.float32)),
        "key": jax.random.key(0),
        "host": np.zeros(3, int),
    }
    stored = whole if is_lead() else None
    placed = placed_from_lead(stored, empty)
    states = Checkpoints(folder)
    if is_lead():
        states.start()
        states.save(7, whole)
    step, read = states.restore_in_all(empty)
    found = {
        "state": [step, whole_on_host(read)["spread"].view(np.uint32).tolist()],
        "failure": message_of_call(fail if is_lead() else lambda: agree_with_lead(signal=None)),
        "value": from_lead(lambda: called.append(number) or {"from": number}),
        "called": called,
        "error": message_of(refuse),
        "division": message_of(lambda: 1 // 0),
        "agreed": agree(signal=15 if number == 1 else None, stores=is_lead()),
        "nothing": agree(signal=None),
        "bits": whole["spread"].view(np.uint32).tolist(),
        "restored": whole_on_host(placed)["spread"].view(np.uint32).tolist(),
        "is spread": len(placed["spread"].sharding.device_set),
        "key": jax.random.key_data(placed["key"]).tolist(),
        "host": placed["host"].tolist(),
        "drawn": float(jax.random.uniform(placed["key"])),
    }
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
