"""Clipped sums and noise on eight devices: equal to one device, and what the devices exchange."""

import collections
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

STRATEGIES = ("materialize", "one_backward", "two_backwards")
EXAMPLES, TABLE, UP, DOWN = 32, 48 * 16, 2 * 16 * 64, 2 * 64 * 16


@pytest.fixture(scope="module")
def cases():
    """The number of devices is fixed when JAX starts: hence a process of its own."""
    script = Path(__file__).with_name("sharded_steps.py")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def counts(case):
    """Collectives by name, but for a single truth value: whether any example is to be left out."""
    return collections.Counter(
        operation for operation, shapes in case["collectives"] if shapes != [[]]
    )


def spans_the_batch(case):
    """Whether an array with all examples on one device is exchanged."""
    # Half of the perceptron's weights has as many rows as there are examples.
    half = [32, 16]
    return any(
        shape[:1] == [EXAMPLES] and shape != half
        for _, shapes in case["collectives"]
        for shape in shapes
    )


def entries(case, operation):
    """How many numbers are exchanged, loops counted once."""
    return sum(
        math.prod(shape)
        for name, shapes in case["collectives"]
        if name == operation
        for shape in shapes
    )


def test_every_result_equals_that_of_one_device(cases):
    different = {name: case["difference"] for name, case in cases.items() if "difference" in case}
    assert len(different) == 26
    assert max(different.values()) < 2e-6


@pytest.mark.parametrize("suffix", ["", ", microbatches"])
@pytest.mark.parametrize("strategy", [*STRATEGIES, "auto"])
def test_data_parallel_exchanges_the_gradient_and_nothing_else(cases, strategy, suffix):
    """Once, as the ordinary step; where that has one exchange in each layer, so may this."""
    case, ordinary = cases[f"data, {strategy}{suffix}"], cases[f"data, non-private{suffix}"]
    assert set(counts(case)) == set(counts(ordinary)) == {"all-reduce"}
    assert counts(case)["all-reduce"] <= counts(ordinary)["all-reduce"]
    # The tied table is the sum of two terms, which are exchanged apart.
    assert entries(case, "all-reduce") <= UP + DOWN + 2 * TABLE


@pytest.mark.parametrize("strategy", [*STRATEGIES, "auto"])
def test_inside_shard_map_nothing_but_the_clipped_sums_is_added_up(cases, strategy):
    """A gradient that is added up before it is clipped would be exchanged example by example."""
    case = cases[f"shard_map, {strategy}"]
    assert set(counts(case)) == {"all-reduce"}
    assert entries(case, "all-reduce") == UP + DOWN + TABLE


@pytest.mark.parametrize("suffix", ["", ", microbatches"])
@pytest.mark.parametrize("strategy", [*STRATEGIES, "auto"])
def test_no_device_repeats_the_work_of_another(cases, strategy, suffix):
    """Each does an eighth, up to what norms and a second backward pass cost."""
    case, ordinary = cases[f"data, {strategy}{suffix}"], cases[f"data, non-private{suffix}"]
    assert case["operations"] < 3 * ordinary["operations"]
    assert 7 * ordinary["operations"] < cases["non-private"]["operations"]


def test_a_batch_that_microbatches_do_not_divide_is_cut_within_each_device_too(cases):
    assert counts(cases["data, smaller last microbatch"]) == {"all-reduce": 1}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_parameters_that_are_gathered_when_used(cases, strategy):
    """The ordinary step's collectives; the second backward pass gathers the layers again."""
    case, ordinary = cases[f"fsdp, {strategy}"], cases["fsdp, non-private"]
    again = 2 if strategy == "two_backwards" else 0
    assert counts(case)["all-gather"] == counts(ordinary)["all-gather"] + again
    assert counts(case)["all-reduce"] <= counts(ordinary)["all-reduce"]
    assert set(counts(case)) == {"all-gather", "all-reduce"}
    assert not spans_the_batch(case)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_parameters_that_are_split_among_devices(cases, strategy):
    """Only sums over the tensor axis beside the ordinary step's: of norms and of Gram matrices."""
    case = cases[f"tensor, {strategy}"]
    assert set(counts(case)) == set(counts(cases["tensor, non-private"])) == {"all-reduce"}
    assert not spans_the_batch(case)


@pytest.mark.parametrize("name", ["all, noise", "explicit, noise"])
def test_noise_is_the_same_and_each_device_draws_its_own_part(cases, name):
    assert cases[name]["difference"] == 0.0
    assert not cases[name]["collectives"]
    assert cases[name]["operations"] < cases["noise"]["operations"] / 3
