"""What `auto` counts: the examples of one device of eight, where it can know them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_examples_of_one_device_count():
    """The number of devices is fixed when JAX starts: hence a process of its own."""
    script = Path(__file__).with_name("rows_of_devices.py")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {
        "private gradient, one device": [32],
        "private gradient, four devices": [8],
        "explicit axes, outside jit": [8],
        "explicit axes, inside jit": [8],
        # Nothing tells: all of them may be on each device.
        "automatic axes, inside jit": [32],
        "fit without privacy, eight devices": [4],
    }
