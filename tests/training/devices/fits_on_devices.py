"""Run as a script on eight CPU devices: `fit` on several meshes, as JSON on stdout."""

import collections
import importlib.util
import json
import os
import re
import sys
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dpjax_accounting import DPSGD, BandedDPSGD
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from rich.console import Console

import dpjax
from dpjax.privatize.devices.spread_sums import shardings_of
from dpjax.privatize.randomness import noise
from tests.training.devices.toy_model import CORRELATED, make_options

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


ONE_STEP = DPSGD(num_units=40, expected_batch_size=10, noise_multiplier=2.0, num_steps=1)
CORRELATED_STEPS = BandedDPSGD(
    num_units=40,
    expected_batch_size=10,
    noise_multiplier=2.0,
    num_steps=3,
    bands=2,
    column_norm=1.0,
)


def noise_of(mesh, mechanism=ONE_STEP):
    """Trained parameters of a loss without a gradient: the noise of all steps, divided by B."""
    strategy = None if mechanism is ONE_STEP else dpjax.BandedStrategy((1.0, 0.5))
    run = dpjax.fit(
        lambda params, record: 0.0 * jnp.sum(params) * record[0],
        np.zeros((400, 256), np.float32),
        np.ones((40, 1), np.float32),
        mechanism=mechanism,
        optimizer=optax.sgd(1.0),
        clip_norm=0.5,
        run_key=dpjax.RunKey.from_seed(1),
        microbatch_size=8,
        noise_strategy=strategy,
        mesh=mesh,
    )
    return np.asarray(run.run(Console(quiet=True)).params)


def with_noise_of_every_device(mesh, mechanism=ONE_STEP):
    """A bug that is planted: eight devices add noise of their own."""
    draw = noise._draw

    def summed(like, keys, stddev):
        own = [jax.vmap(jax.random.fold_in, (0, None))(keys, device) for device in range(8)]
        return jax.tree.map(lambda *parts: sum(parts), *(draw(like, k, stddev) for k in own))

    noise._draw = summed
    try:
        return noise_of(mesh, mechanism)
    finally:
        noise._draw = draw


def collectives_of_step(mesh):
    """How often each collective occurs in the compiled programs of a step, by program."""
    found = {}
    run = dpjax.fit(**make_options(), mesh=mesh)
    total, _ = run.steps.begin(run.params, 0)
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


def resumed_correlated(options, mesh):
    """Whether a run that is left after seven steps comes to the bits of one that is not."""
    quiet, ended = Console(quiet=True), []
    for left in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            where = {"mesh": mesh, "output_dir": f"{folder}/run"}
            run = dpjax.fit(**options, **where)
            for done in run:
                if left and done.step == 7:
                    break
            if left:
                run = dpjax.fit(**options, **where, resume=True)
                assert run.steps_completed == 7
            ended.append(jax.device_get(run.run(quiet).params))
    return all((ended[0][name] == ended[1][name]).all() for name in ended[0])


def correlated():
    """The same with noise that is correlated over steps, of a strategy that is found."""
    options, quiet = make_options(CORRELATED), Console(quiet=True)
    expected = jax.device_get(dpjax.fit(**options, mesh=single_device_mesh()).run(quiet).params)
    cases = {}
    for mesh in ("data=8", "fsdp=8", "data=2,fsdp=2,tensor=2"):
        run = dpjax.fit(**options, mesh=mesh)
        cases[mesh] = describe(run, run.run(quiet).params, expected)
        # Of matrices, with an axis of past steps before theirs.
        state = [leaf for leaf in run.steps._private.noise._state if leaf.ndim > 2]
        assert len(state) == 2
        cases[mesh]["share of past noise"] = largest_share(state)
    one = noise_of(single_device_mesh(), CORRELATED_STEPS)
    noises = [noise_of(mesh, CORRELATED_STEPS) for mesh in cases]
    return {
        "cases": cases,
        "noise": [float(drawn.std()) for drawn in noises],
        "difference of noise": max(float(np.abs(drawn - one).max()) for drawn in noises),
        "planted": float(with_noise_of_every_device("fsdp=8", CORRELATED_STEPS).std()),
        "bits on resuming": resumed_correlated(options, "fsdp=8"),
    }


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
    if importlib.util.find_spec("jax_privacy") is not None:
        report["correlated"] = correlated()
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
