"""`fit` in two processes of four devices each, over the loopback interface."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import dpjax
from tests.support.processes import in_two_processes
from tests.training.devices.toy_model import CORRELATED, make_options

pytestmark = pytest.mark.slow


SCRIPT = Path(__file__).with_name("fits_on_hosts.py")


def test_two_processes_come_to_what_one_device_comes_to():
    quiet, same = Console(quiet=True), in_two_processes(SCRIPT, "same")
    one = dict.fromkeys(("data=8", "fsdp=8"), dpjax.fit(**make_options()).run(quiet))
    if "correlated" in same[0]:
        one["correlated"] = dpjax.fit(**make_options(CORRELATED)).run(quiet)
    for found in same:
        assert found.keys() == one.keys()
        for name, expected in one.items():
            result = found[name]
            assert result["epsilon"] == expected.epsilon
            for path, value in result["params"].items():
                np.testing.assert_allclose(value, expected.params[path], atol=1e-6)
            # Of microbatches of 16 records each reads the half that its devices compute.
            assert result["most rows"] == 8


def test_processes_share_a_new_key_and_refuse_to_disagree():
    one, other = in_two_processes(SCRIPT, "different")
    assert one["new key"] == other["new key"] and len(one["new key"]) == 32
    # Units are in another order in one of them.
    assert all(
        "must be given the same, got different data" in each["owners"] for each in (one, other)
    )
    for name in ("data", "run keys", "mechanisms"):
        for found in (one, other):
            assert found[name].startswith(
                f"the 2 processes of a run must be given the same, got "
                f"different {name}. Start all of them"
            )
