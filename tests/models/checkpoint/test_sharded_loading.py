import json
import subprocess
import sys
from pathlib import Path

import pytest

from dpjax.models import save_model
from tests.support.tiny_checkpoints import random_model, write_config

pytestmark = pytest.mark.slow


def test_a_checkpoint_is_loaded_over_several_devices(tmp_path):
    # A vocabulary that four devices can share.
    model = random_model("llama", "causal_lm", vocab_size=64)
    source = write_config(tmp_path / "source", "llama", vocab_size=64)
    save_model(model, tmp_path / "saved", source=source)
    # The number of devices is fixed when JAX starts: hence a process of its own.
    script = Path(__file__).with_name("sharded_loading.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "saved"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cases = json.loads(done.stdout)
    assert cases.keys() == {"unrolled", "stacked"}
    for case in cases.values():
        assert case["difference"] < 1e-5
        assert case["share"] == pytest.approx(1 / 4)
