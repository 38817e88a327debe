"""`fit` in two processes of four devices each, over the loopback interface."""

import concurrent.futures
import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import dpjax
from tests.training.devices.toy_model import make_options

pytestmark = pytest.mark.slow


def free_port():
    with contextlib.closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def in_two_processes(case):
    """What each of them found; all of it runs in processes of their own, which JAX may abort."""
    script, port = Path(__file__).with_name("fits_on_hosts.py"), str(free_port())
    started = [
        subprocess.Popen(
            [sys.executable, script, str(number), port, case],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (0, 1)
    ]
    try:
        # At once: a process that cannot print, because nobody reads, would let the other wait.
        with concurrent.futures.ThreadPoolExecutor() as readers:
            ended = list(readers.map(lambda process: process.communicate(timeout=600), started))
    finally:
        for process in started:
            process.kill()
    for process, (_, said) in zip(started, ended, strict=True):
        assert process.returncode == 0, said[-3000:]
    return [json.loads(printed.splitlines()[-1]) for printed, _ in ended]


def test_two_processes_come_to_what_one_device_comes_to():
    expected = dpjax.fit(**make_options()).run(Console(quiet=True))
    for found in in_two_processes("same"):
        for result in found.values():
            assert result["epsilon"] == expected.epsilon
            for name, value in result["params"].items():
                np.testing.assert_allclose(value, expected.params[name], atol=1e-6)
            # Of microbatches of 16 records each reads the half that its devices compute.
            assert result["most rows"] == 8


def test_processes_share_a_new_key_and_refuse_to_disagree():
    one, other = in_two_processes("different")
    assert one["new key"] == other["new key"] and len(one["new key"]) == 32
    for name in ("data", "run keys", "mechanisms"):
        for found in (one, other):
            assert found[name].startswith(
                f"the 2 processes of a run must be given the same, got "
                f"different {name}. Start all of them"
            )
