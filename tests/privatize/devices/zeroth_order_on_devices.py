"""Run as a script on eight CPU devices: steps from forward passes on meshes, as JSON on stdout."""

import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.privatize.test_zeroth_order import make
from tests.support.private_loop import CLIP_NORM, take

# Where each leaf lies. Rows are shared by all eight devices on both.
MESHES = {
    "data": {"w": (), "b": ()},
    "fsdp": {"w": ("fsdp", None), "b": ("fsdp",)},
}
ROWS = 8


def loss(params, example):
    hidden = jnp.tanh(example["x"] @ params["w"][:5, :3] + params["b"][:3])
    return jnp.sum((hidden - example["y"]) ** 2)


def make_params():
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=8), jnp.float32),
    }


def run_step(place_params, place_rows):
    """Sums, released gradient, parameters, and where these lie."""
    private, params = make(loss), place_params(make_params())
    total, params = private.begin_in_place(params, 0)
    start = jax.tree.map(np.array, params)
    for rows, mask in private.batches(0, microbatch_size=ROWS):
        total, params = private.add_in_place(total, params, *place_rows((take(rows), mask)))
    came_back = [
        bool(np.array_equal(leaf, start[name])) and bool(total.is_restored)
        for name, leaf in params.items()
    ]
    share = max(
        shard.data.size / leaf.size for leaf in params.values() for shard in leaf.addressable_shards
    )
    sums = np.asarray(total.grads) * CLIP_NORM / private.noise.grid.resolution
    released = private.release(total, 0)
    return sums, jax.tree.map(np.asarray, (released, params)), all(came_back), share


def main():
    sums, trees, came_back, _ = run_step(lambda params: params, lambda rows: rows)
    assert came_back
    found = {}
    for name, parts in MESHES.items():
        mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
        of_rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

        def place(params, mesh=mesh, parts=parts):
            return {
                name: jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*parts[name])))
                for name, leaf in params.items()
            }

        on_mesh = run_step(place, lambda rows, of_rows=of_rows: jax.device_put(rows, of_rows))
        gaps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), on_mesh[1], trees)
        found[name] = {
            "sums": float(np.abs(on_mesh[0] - sums).max()),
            "trees": max(jax.tree.leaves(gaps)),
            "came_back": on_mesh[2],
            "share": on_mesh[3],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
