"""What `auto` counts as the examples of one device, on eight of them; prints JSON."""

import json
import logging
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dpjax_accounting import DPSGD
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import dpjax

logging.basicConfig(level=logging.WARNING)
EXAMPLES = 32


class Heard(logging.Handler):
    """Keeps the number of examples that each choice was made for."""

    def __init__(self):
        super().__init__()
        self.numbers = []

    def emit(self, record):
        words = record.getMessage().split("ordinary step with ")
        if len(words) == 2:
            self.numbers.append(int(words[1].split()[0]))


def loss(params, x):
    return jnp.sum(jnp.tanh(x * params["w"]))


def main():
    heard = Heard()
    log = logging.getLogger("dpjax")
    log.addHandler(heard)
    log.setLevel(logging.INFO)
    params, rows, mask = {"w": jnp.ones(3)}, jnp.ones((EXAMPLES, 3)), jnp.ones(EXAMPLES, bool)
    mechanism = DPSGD(num_units=64, expected_batch_size=32, noise_multiplier=1.0, num_steps=1)
    private = dpjax.private_gradient(
        loss, mechanism=mechanism, clip_norm=1.0, run_key=dpjax.RunKey.from_os_entropy()
    )
    clipped = dpjax.clipped_grad(loss, clip_norm=1.0)
    found = {}

    def note(name):
        found[name] = sorted(set(heard.numbers))
        heard.numbers.clear()

    def place(kind):
        mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(kind,) * 2)
        of_rows = NamedSharding(mesh, PartitionSpec("data"))
        on_all = NamedSharding(mesh, PartitionSpec())
        return jax.device_put((params, rows, mask), (on_all, of_rows, of_rows))

    private.add(private.zeros(params, 0), params, rows, mask)
    note("private gradient, one device")
    placed = place(AxisType.Auto)
    private.add(private.zeros(placed[0], 0), *placed)
    note("private gradient, four devices")
    jax.eval_shape(clipped, *place(AxisType.Explicit))
    note("explicit axes, outside jit")
    jax.jit(lambda *arguments: clipped(*arguments).grads).lower(*place(AxisType.Explicit))
    note("explicit axes, inside jit")
    jax.jit(lambda *arguments: clipped(*arguments).grads).lower(*placed)
    note("automatic axes, inside jit")
    fit = dpjax.fit(
        loss,
        params,
        np.ones((64, 3), np.float32),
        mechanism=dpjax.NoPrivacy(num_units=64, expected_batch_size=64, num_steps=1),
        optimizer=optax.sgd(0.1),
        microbatch_size=EXAMPLES,
    )
    next(iter(fit))
    note("fit without privacy, eight devices")
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
