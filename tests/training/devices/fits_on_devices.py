"""Run as a script on eight CPU devices: `fit` on several meshes, as JSON on stdout."""

import collections
import json
import os
import re
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dpjax_accounting import DPSGD
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from rich.console import Console

import dpjax
from dpjax.privatize.devices.spread_sums import shardings_of
from dpjax.privatize.randomness import noise
from tests.training.devices.toy_model import make_options

COLLECTIVES = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"


def split_by_hand(path, shape):
    """A rule of the caller's own: the hidden units over tensor."""
    return {"in": P(None, "tensor"), "out": P("tensor")}.get(path, P())


def single_device_mesh():
    """What `fit` gets where there is one device only."""
    return Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))


def largest_share(tree):
    """Of any matrix, how much the device that has most of it holds."""
    return max(
        shard.data.size / leaf.size
        for leaf in jax.tree.leaves(tree)
        if leaf.ndim > 1
        for shard in leaf.addressable_shards
    )


def describe(run, params, expected):
    gaps = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), params, expected)
    return {
        "difference": max(jax.tree.leaves(gaps)),
        "share": largest_share((run.params, run.frozen, run.state)),
        "num_steps": run.steps_completed,
        "epsilon": run.result().epsilon,
    }


def noise_of(mesh):
    """Trained parameters of a loss without a gradient: one step's noise, divided by B."""
    run = dpjax.fit(
        lambda params, record: 0.0 * jnp.sum(params) * record[0],
        np.zeros((400, 256), np.float32),
        np.ones((40, 1), np.float32),
        mechanism=DPSGD(num_units=40, expected_batch_size=10, noise_multiplier=2.0, num_steps=1),
        optimizer=optax.sgd(1.0),
        clip_norm=0.5,
        run_key=dpjax.RunKey.from_seed(1),
        microbatch_size=8,
        mesh=mesh,
    )
    return np.asarray(run.run(Console(quiet=True)).params)


def with_noise_of_every_device(mesh):
    """A bug that is planted: eight devices add noise of their own."""
    draw = noise._draw

    def summed(like, keys, stddev):
        own = [jax.vmap(jax.random.fold_in, (0, None))(keys, device) for device in range(8)]
        return jax.tree.map(lambda *parts: sum(parts), *(draw(like, k, stddev) for k in own))

    noise._draw = summed
    try:
        return noise_of(mesh)
    finally:
        noise._draw = draw


def collectives_of_step(mesh):
    """How often each collective occurs in the compiled programs of a step, by program."""
    found = {}
    run = dpjax.fit(**make_options(), mesh=mesh)
    total = run.steps.zeros(run.params, 0)
    batch, mask = next(iter(run.batches(0)))
    add, update = run.steps._private._compiled_add, run.steps._private._compiled_update
    noise_arguments = run.steps._private.noise.arguments(0, total.grads)
    arguments, where = (total, run.params, batch, mask, run.frozen), shardings_of(run.params)
    programs = {
        "add": add.lower(*arguments, shardings=where),
        "update": update.lower(
            run.steps._apply,
            (run.params, run.state),
            total.grads,
            *noise_arguments,
        ),
    }
    for name, lowered in programs.items():
        text = lowered.compile().as_text()
        counts = collections.Counter(re.findall(rf"\b({COLLECTIVES})(?:-start)?\(", text))
        found[name] = dict(counts)
    return found


def main():
    options, quiet = make_options(), Console(quiet=True)
    single = dpjax.fit(**options, mesh=single_device_mesh())
    expected = jax.device_get(single.run(quiet).params)
    meshes = {
        "default": {},
        "data": {"mesh": "data=8"},
        "fsdp": {"mesh": "fsdp=8"},
        "both": {"mesh": "data=2,fsdp=4"},
        "by hand": {"mesh": "data=2,fsdp=2,tensor=2", "sharding": split_by_hand},
        "half": {"mesh": Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("fsdp", "data"))},
    }
    cases = {}
    for name, changes in meshes.items():
        run = dpjax.fit(**options, **changes)
        cases[name] = describe(run, run.run(quiet).params, expected)
    noises = {mesh: noise_of(mesh) for mesh in ("data=8", "fsdp=8", "data=2,fsdp=2,tensor=2")}
    one = noise_of(single_device_mesh())
    report = {
        "cases": cases,
        "noise": {mesh: float(drawn.std()) for mesh, drawn in noises.items()},
        "same noise": [bool((drawn == one).all()) for drawn in noises.values()],
        "planted": float(with_noise_of_every_device("fsdp=8").std()),
        "collectives": {mesh: collectives_of_step(mesh) for mesh in ("data=8", "fsdp=8")},
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
