"""Trains a classifier with `dpjax.fit`, in as many processes as a cluster starts of this program.

    python train.py records.npz folder

The file has `x` (n, d) and `y` (n,) of 0 and 1; every process reads it. Process 0 keeps the folder.
Started again after a crash, the run goes on.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dpjax_accounting import DPSGD

import dpjax


def loss(params: dict[str, jax.Array], record: dict[str, jax.Array]) -> jax.Array:
    """Logistic loss of one record."""
    logit = record["x"] @ params["weight"] + params["bias"]
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logit, record["y"]))


def train(records: str, folder: str, **options: Any) -> None:
    """Trains, or goes on; `options` go to `fit`."""
    with np.load(records) as file:
        data = {name: file[name].astype(np.float32) for name in ("x", "y")}
    run = dpjax.fit(
        loss,
        {"weight": np.zeros(data["x"].shape[1], np.float32), "bias": np.zeros((), np.float32)},
        data,
        mechanism=DPSGD(
            num_units=len(data["x"]),
            expected_batch_size=len(data["x"]) / 8,
            noise_multiplier=1.0,
            num_steps=20,
        ),
        optimizer=optax.sgd(0.5),
        clip_norm=1.0,
        # The devices of all processes share it: their number must divide it.
        microbatch_size=64,
        output_dir=folder,
        resume=True,
        **options,
    )
    result = run.run()
    if jax.process_index() == 0:
        print(f"{jax.process_count()} processes, ε = {result.epsilon:.3f}, parameters in {folder}")


if __name__ == "__main__":
    dpjax.initialize_distributed()
    train(*sys.argv[1:])
