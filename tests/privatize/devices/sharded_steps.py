"""Run as a script on eight CPU devices: clipped sums and noise under meshes, as JSON on stdout.

For every case: the largest relative difference to one device, and of the compiled program its
collectives, and the operations of one of the devices.
"""

import json
import os
import re
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
# The machine code is not what is looked at; without optimisation it is made in half the time.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import jax
import jax.numpy as jnp
import numpy as np
from dpjax_accounting import DPSGD
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import dpjax
from dpjax.privatize import RunKey, noisy_mean

LAYERS, SIZE, VOCAB, LENGTH, EXAMPLES, MICROBATCH = 2, 16, 48, 20, 32, 16
SHAPES = {"table": (VOCAB, SIZE), "up": (LAYERS, SIZE, 64), "down": (LAYERS, 64, SIZE)}
STRATEGIES = ("materialize", "one_backward", "two_backwards")
AXES = ("data", "fsdp", "tensor")
# Sizes of the axes, and how parameters are spread over them: as a whole on every device, gathered
# where they are used, split, and the latter two together.
MESHES = {
    "data": ((8, 1, 1), {"table": P(), "up": P(), "down": P()}),
    "fsdp": ((1, 8, 1), {"table": P("fsdp"), "up": P(None, "fsdp"), "down": P(None, "fsdp")}),
    "tensor": (
        (4, 1, 2),
        {"table": P("tensor"), "up": P(None, None, "tensor"), "down": P(None, "tensor")},
    ),
    "all": (
        (2, 2, 2),
        {
            "table": P("tensor", "fsdp"),
            "up": P(None, "fsdp", "tensor"),
            "down": P(None, "tensor", "fsdp"),
        },
    ),
}


def make_mesh(name, axis_type=AxisType.Auto):
    return jax.make_mesh(MESHES[name][0], AXES, axis_types=(axis_type,) * 3)


def make_loss(mesh=None):
    """A scanned, rematerialised decoder whose head is its table.

    With a mesh, parameters are gathered where they are used: left to itself, the compiler would
    rather spread activations like the parameters, in the ordinary step too.
    """

    def gathered(p):
        return p if mesh is None else jax.lax.with_sharding_constraint(p, NamedSharding(mesh, P()))

    @jax.checkpoint
    def layer(h, p):
        return h + jnp.tanh(h @ gathered(p["up"])) @ gathered(p["down"]), None

    def loss(params, ids):
        table = gathered(params["table"])
        h, _ = jax.lax.scan(layer, table[ids], {name: params[name] for name in ("up", "down")})
        log_probs = jax.nn.log_softmax(h @ table.T)[:-1]
        return -jnp.mean(jnp.take_along_axis(log_probs, ids[1:, None], 1))

    return loss


def non_private(microbatch_size, mesh=None):
    """The ordinary gradient of the same loss, added up over microbatches where asked for."""

    def of_rows(params, ids, mask):
        values = jax.vmap(make_loss(mesh), (None, 0))
        return jax.grad(lambda p: jnp.sum(jnp.where(mask, values(p, ids), 0.0)))(params)

    def step(params, ids, mask):
        if microbatch_size is None:
            return (of_rows(params, ids, mask),)
        grouped = [x.reshape(microbatch_size, -1, *x.shape[1:]) for x in (ids, mask)]

        def add(total, index):
            rows = [jax.lax.dynamic_index_in_dim(x, index, 1, keepdims=False) for x in grouped]
            return jax.tree.map(jnp.add, total, of_rows(params, *rows)), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        return (jax.lax.scan(add, zeros, jnp.arange(grouped[0].shape[1]))[0],)

    return step


def private(strategy, microbatch_size, mesh=None):
    fn = dpjax.clipped_grad(
        make_loss(mesh), clip_norm=0.5, strategy=strategy, microbatch_size=microbatch_size
    )

    def step(params, ids, mask):
        got = fn(params, ids, mask)
        return got.grads, got.norms, got.losses

    return step


def in_shard_map(strategy, microbatch_size):
    """Each device clips its own examples; the sums are added up afterwards."""
    fn = private(strategy, microbatch_size)

    def step(params, ids, mask):
        grads, norms, losses = fn(params, ids, mask)
        return jax.lax.psum(grads, "data"), norms, losses

    rows = P("data")
    return jax.shard_map(
        step, mesh=make_mesh("data"), in_specs=(P(), rows, rows), out_specs=(P(), rows, rows)
    )


def noisy(params, ids, mask):
    del ids, mask
    keys = RunKey.from_seed(5).noise_keys(0)
    return (
        noisy_mean(
            params,
            keys,
            mechanism=DPSGD(
                num_units=100, expected_batch_size=10, noise_multiplier=1.0, num_steps=1
            ),
            clip_norm=1.0,
        ),
    )


def collectives(text):
    """`(operation, [shapes])` of every collective of a compiled program."""
    names = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-[a-z]+|ragged[a-z-]*"
    found = []
    for line in text.splitlines():
        match = re.search(rf" = (.*?)\b({names})(-start)?\(", line)
        if match:
            shapes = re.findall(r"\b[a-z]+\d*\[([\d,]*)\]", re.sub(r"/\*.*?\*/", "", match[1]))
            found.append([match[2], [[int(n) for n in s.split(",") if n] for s in shapes]])
    return found


class Report:
    """Runs steps on one device and under meshes, and collects what is to be known of them."""

    def __init__(self):
        rng = np.random.default_rng(0)
        params = {
            name: jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32)
            for name, shape in SHAPES.items()
        }
        ids = jnp.asarray(rng.integers(0, VOCAB, (EXAMPLES, LENGTH)), jnp.int32)
        self.arguments = params, ids, jnp.asarray(rng.random(EXAMPLES) < 0.8)
        self.cases = {}

    def on_one_device(self, name, step):
        compiled = jax.jit(step).lower(*self.arguments).compile()
        return self._record(name, compiled, compiled(*self.arguments))

    def under(self, mesh, name, step, expected, axis_type=AxisType.Auto):
        specs, mesh = MESHES[mesh][1], make_mesh(mesh, axis_type)
        of_params = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
        of_rows = NamedSharding(mesh, P(("data", "fsdp")))
        placed = jax.device_put(self.arguments, (of_params, of_rows, of_rows))
        shardings = (of_params, *[of_rows] * (len(expected) - 1))
        compiled = jax.jit(step, out_shardings=shardings).lower(*placed).compile()
        got = compiled(*placed)
        self._record(name, compiled, got)["difference"] = _difference(got, expected)

    def _record(self, name, compiled, got):
        self.cases[name] = {
            "collectives": collectives(compiled.as_text()),
            "operations": compiled.cost_analysis()["flops"],
            "result": got,
        }
        return self.cases[name]


def _difference(got, expected):
    """The largest over arrays, relative to the largest entry of each."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    return max(
        float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(np.asarray(b))))
        for a, b in pairs
    )


def main():
    report = Report()
    ordinary = report.on_one_device("non-private", non_private(None))["result"]
    clipped = report.on_one_device("materialize", private("materialize", None))["result"]
    noise = report.on_one_device("noise", noisy)["result"]
    for size in (None, MICROBATCH):
        suffix = ", microbatches" if size else ""
        report.under("data", f"data, non-private{suffix}", non_private(size), ordinary)
        for strategy in (*STRATEGIES, "auto"):
            report.under("data", f"data, {strategy}{suffix}", private(strategy, size), clipped)
    report.under("data", "data, smaller last microbatch", private("materialize", 24), clipped)
    for strategy in (*STRATEGIES, "auto"):
        step = in_shard_map(strategy, 2 if strategy == "two_backwards" else None)
        report.under("data", f"shard_map, {strategy}", step, clipped)
    for mesh in ("fsdp", "tensor"):
        gather_over = make_mesh("fsdp") if mesh == "fsdp" else None
        report.under(mesh, f"{mesh}, non-private", non_private(None, gather_over), ordinary)
        for strategy in STRATEGIES:
            step = private(strategy, None, gather_over)
            report.under(mesh, f"{mesh}, {strategy}", step, clipped)
    report.under("all", "all, noise", noisy, noise)
    step = private("two_backwards", MICROBATCH)
    report.under("all", "explicit, two_backwards", step, clipped, AxisType.Explicit)
    report.under("all", "explicit, noise", noisy, noise, AxisType.Explicit)
    jax.jit(step).trace(*report.arguments).lower(lowering_platforms=("tpu",))
    for case in report.cases.values():
        del case["result"]
    json.dump(report.cases, sys.stdout)


if __name__ == "__main__":
    main()
