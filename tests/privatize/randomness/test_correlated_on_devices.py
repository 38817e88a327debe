"""Correlated noise on eight devices: that of one device, and no device holds more than its part."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("jax_privacy", reason="the extra correlated is not installed")

_SCRIPT = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from dpjax import BandedStrategy, BufferedStrategy, RunKey
from dpjax.privatize.randomness.correlated.noise import CorrelatedNoise
from tests.support.mechanisms import banded

key, mechanism = RunKey.from_seed(5), banded(80, 2, 1.0, 8, bands=8, column_norm=1.0)
found = {}
for strategy in (BandedStrategy((0.8, 0.4, 0.2)), BufferedStrategy((0.9, 0.5), (0.2, 0.3))):
    alone = CorrelatedNoise(mechanism, key, 1.0, strategy)
    like = {"a": jnp.zeros((16, 6)), "b": jnp.zeros(8)}
    expected = [alone.unscaled(step, like) for step in range(5)]
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(kind, kind))
        specs = {"a": P("fsdp", "tensor"), "b": P(("fsdp", "tensor"))}
        placed = {n: jax.device_put(like[n], NamedSharding(mesh, specs[n])) for n in like}
        noise = CorrelatedNoise(mechanism, key, 1.0, strategy)
        differences = []
        for step in (2, 3, 4):
            rows = noise.unscaled(step, placed)
            differences += [float(np.abs(rows[n] - expected[step][n]).max()) for n in like]
        arrays = jax.tree.leaves((rows, noise._state))
        parts = [a.addressable_shards[0].data.size / a.size for a in arrays]
        text = noise._advance.lower(noise._state, key.noise_keys(0)).compile().as_text()
        words = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
        found[f"{type(strategy).__name__} {kind}"] = {
            "difference": max(differences),
            "largest_part": max(parts),
            "collectives": [word for word in words if f" {word}" in text],
        }
print(json.dumps(found))
"""


def test_noise_on_eight_devices_is_that_of_one():
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
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
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found) == 4
    for case in found.values():
        assert case["difference"] < 1e-5
        assert case["largest_part"] == 1 / 8
        assert case["collectives"] == []
