"""A run of `fit` that takes a second; as a program, one that may be killed.

python small_fit.py OUTPUT_DIR SEEN [SECONDS]: resumes the run, writes a line for each step that it
was shown into the file SEEN, and kills itself after so many seconds.
"""

import json
import os
import signal
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import optax
from dpjax_accounting import DPSGD
from rich.console import Console

import dpjax

NUM = 60
MECHANISM = DPSGD(num_units=NUM, expected_batch_size=12, noise_multiplier=4.0, num_steps=12)
DELTA = 1e-3
QUIET = Console(quiet=True)
KEY = dpjax.RunKey.from_seed(3)
WHOLE = MECHANISM.epsilon(DELTA)


def squares(params, record):
    return jnp.sum((params["w"] * record["x"] - record["y"]) ** 2)


def make_options(**changes):
    x = np.random.default_rng(0).normal(size=(NUM, 3)).astype(np.float32)
    options = {
        "loss": squares,
        "params": {"w": jnp.zeros(3)},
        "data": {"x": x, "y": 2 * x},
        "mechanism": MECHANISM,
        "optimizer": optax.adam(0.1),
        "clip_norm": 0.7,
        "delta": DELTA,
        "microbatch_size": 5,
    }
    return options | changes


def fit(folder, **changes):
    return dpjax.fit(**make_options(run_key=KEY) | {"output_dir": folder} | changes)


def leave_after(step, folder, **changes):
    run = fit(folder, **changes)
    for done in run:
        if done.step == step:
            break
    return run


def steps_on_record(folder):
    return json.loads((folder / "privacy.json").read_text())["steps_completed"]


def main(output_dir, seen, seconds=None):
    if seconds is not None:
        killer = threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()
    run = dpjax.fit(
        **make_options(run_key=dpjax.RunKey.from_seed(3)),
        output_dir=output_dir,
        ledger=f"{output_dir}.ledger",
        resume=True,
        checkpoint_every_steps=2,
    )
    with open(seen, "a", buffering=1) as file:
        for done in run:
            file.write(f"{done.step} {np.asarray(done.params['w']).tobytes().hex()}\n")
            # Where the run may be killed, beside the steps.
            time.sleep(0.03)


if __name__ == "__main__":
    main(*sys.argv[1:])
