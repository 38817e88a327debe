"""Steps from forward passes on eight devices come to what one device comes to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_meshes_come_to_what_one_device_comes_to():
    # The number of devices is fixed when JAX starts: hence a process of its own.
    script = Path(__file__).with_name("zeroth_order_on_devices.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name, share in (("data", 1.0), ("fsdp", 0.5)):
        mesh = found[name]
        assert mesh["came_back"] and mesh["share"] == share
        assert mesh["sums"] < 2e-3 and mesh["trees"] < 2e-3
