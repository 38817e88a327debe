"""`fit` on eight devices: parameters, noise, memory and what is exchanged."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

# Standard deviation of the noise on the mean: σC / B, of 400 × 256 draws.
NOISE, NUM_DRAWS = 2.0 * 0.5 / 10, 400 * 256


def run_script(name):
    """The number of devices is fixed when JAX starts: hence a process of its own."""
    script = Path(__file__).with_name(name)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found():
    return run_script("fits_on_devices.py")


def test_every_mesh_comes_to_what_one_device_comes_to(found):
    assert len(found["cases"]) == 6
    assert {case["num_steps"] for case in found["cases"].values()} == {20}
    assert max(case["difference"] for case in found["cases"].values()) < 1e-6
    assert len({case["epsilon"] for case in found["cases"].values()}) == 1


def test_no_matrix_is_whole_on_a_device_of_fsdp(found):
    shares = {name: case["share"] for name, case in found["cases"].items()}
    assert shares["fsdp"] == 1 / 8
    assert shares["both"] == 1 / 4
    assert shares["half"] == 1 / 2


def is_the_noise_of_one(stddev, expected=NOISE):
    """Within four standard errors, 1/√(2n) of it."""
    return abs(stddev / expected - 1) < 4 / (2 * NUM_DRAWS) ** 0.5


def test_there_is_one_noise_and_not_one_of_every_device(found):
    assert all(is_the_noise_of_one(stddev) for stddev in found["noise"].values())
    assert found["same noise"] == [True] * 3
    assert not is_the_noise_of_one(found["planted"])


@pytest.fixture(scope="module")
def correlated(found):
    pytest.importorskip("jax_privacy", reason="the extra correlated is not installed")
    return found["correlated"]


def test_correlated_noise_comes_to_what_one_device_comes_to(correlated):
    cases = correlated["cases"]
    assert {case["num_steps"] for case in cases.values()} == {20}
    assert max(case["difference"] for case in cases.values()) < 1e-6
    assert correlated["difference of noise"] < 1e-6
    assert cases["fsdp=8"]["share"] == cases["fsdp=8"]["share of past noise"] == 1 / 8
    assert correlated["bits on resuming"]


def test_correlated_noise_is_one_and_not_one_of_every_device(correlated):
    """The sum of three steps is 1ᵀC⁻¹Z, where the columns of C have length 1."""
    toeplitz = np.array([[1, 0, 0], [0.5, 1, 0], [0, 0.5, 1]])
    matrix = toeplitz / np.linalg.norm(toeplitz, axis=0)
    expected = NOISE * np.linalg.norm(np.ones(3) @ np.linalg.inv(matrix))
    assert all(is_the_noise_of_one(stddev, expected) for stddev in correlated["noise"])
    assert not is_the_noise_of_one(correlated["planted"], expected)


def test_what_a_step_exchanges(found):
    """As docs/guide/devices.md says: noise and update exchange nothing."""
    data, fsdp = found["collectives"]["data=8"], found["collectives"]["fsdp=8"]
    assert data["update"] == fsdp["update"] == {}
    assert set(data["add"]) == {"all-reduce"}
    # Of three matrices two are gathered for the backward pass too.
    assert set(fsdp["add"]) == {"all-reduce", "all-gather"}
    assert fsdp["add"]["all-gather"] <= 2 * 3


@pytest.fixture(scope="module")
def memory():
    return run_script("memory_of_fsdp.py")


def most_held(memory, case):
    """Bytes on a device, in the program of a step that needs most."""
    return memory[case]["held"] + max(memory[case]["beside"].values())


def bound(memory):
    """1.3 × an eighth of parameters, sums, Adam's two moments and noise, and activations."""
    activations = memory["one record"]["beside"]["add"]
    return 1.3 * 5 * memory["parameters"] / 8 + activations


def test_fsdp_holds_an_eighth_on_each_device(memory):
    # What is not split, small vectors, is a few percent.
    assert memory["fsdp"]["held"] < 1.05 * 4 * memory["parameters"] / 8
    assert most_held(memory, "fsdp") < bound(memory)
    # Less than a third of the parameters beside what is held, of the share of the records.
    assert memory["fsdp"]["beside"]["add"] < memory["parameters"] / 3


def test_layers_in_a_loop_are_gathered_one_by_one(memory):
    """All of them at once would be as much as the parameters."""
    loop, again = "fsdp, layers in a loop", "fsdp, layers in a loop, rematerialised"
    assert memory[loop]["beside"]["add"] < memory["parameters"] / 2
    assert memory[again]["beside"]["add"] < memory["parameters"] / 3
    # What rematerialisation drops, gathering does not keep.
    assert memory[again]["beside"]["add"] < 0.8 * memory[loop]["beside"]["add"]


def test_parameters_on_every_device_would_be_noticed(memory):
    assert most_held(memory, "data") > 3 * bound(memory)
