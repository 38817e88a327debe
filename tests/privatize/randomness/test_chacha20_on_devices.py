"""Noise of ChaCha20 on eight devices: that of one device, and each draws its own part alone."""

import json
import os
import subprocess
import sys

import pytest

_SCRIPT = """
import json, math, re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from dpjax import RunKey
from dpjax.privatize import gaussian_noise

keys = RunKey.from_seed(1, generator="chacha20").noise_keys(0)
mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
found = {}
for shape, spec in (
    ((512, 256), P("fsdp")),
    ((64, 2048), P(None, "fsdp")),
    ((2, 512, 256), P(None, "fsdp")),
    ((512, 40), P("fsdp")),
):
    place = NamedSharding(mesh, spec)

    def draw(like, keys, place=place):
        return jax.lax.with_sharding_constraint(gaussian_noise(keys, like, 1.0), place)

    like = jax.device_put(jnp.zeros(shape), place)
    compiled = jax.jit(draw).lower(like, keys).compile()
    alone = jax.jit(lambda like, keys: gaussian_noise(keys, like, 1.0))(jnp.zeros(shape), keys)
    text = compiled.as_text()
    words = [math.prod(map(int, sizes.split(","))) for sizes in re.findall(r"u32.([0-9,]+).", text)]
    collectives = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    found[str(shape)] = {
        "equal": bool(np.array_equal(compiled(like, keys), alone)),
        "largest_part": max(words) / math.prod(shape),
        "collectives": [word for word in collectives if f" {word}" in text],
    }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_noise_on_eight_devices_is_that_of_one():
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for case in json.loads(done.stdout.splitlines()[-1]).values():
        assert case["equal"] and not case["collectives"]
        assert case["largest_part"] <= 1 / 8
