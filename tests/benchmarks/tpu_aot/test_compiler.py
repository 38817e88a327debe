"""The command, with the compiler for TPUs."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.tpu_aot
TINY = ["--model", "tiny", "--batch-size", "16", "--length", "32", "--vocab-chunk", "128"]

NUM_LAYERS = 2

# Two vectors of 32 GB on each of four devices.
TOO_LARGE = """
from benchmarks.aot.topologies import make_mesh, prepare_environment
prepare_environment()
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from benchmarks.aot.compiled import compile_program
mesh = make_mesh("v5e:2x2", {"data": 4, "fsdp": 1, "tensor": 1})
where = NamedSharding(mesh, PartitionSpec())
print(compile_program(jax.jit(jnp.sin).lower(
    jax.ShapeDtypeStruct((8 * 10**9,), jnp.float32, sharding=where)
)))
"""


@pytest.fixture(autouse=True)
def _as_users_compile(full_optimisation, monkeypatch):
    """Of such programs there is nothing that could be loaded and run here."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")


def compile_steps(*options):
    command = [sys.executable, "-m", "benchmarks.tpu_aot", *TINY, *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_tiny_step_compiles_and_adds_no_exchange_but_numbers(tmp_path):
    output = tmp_path / "tiny.json"
    done = compile_steps("--strategies", "one_backward", "--output", str(output), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert json.loads(done.stdout) == result
    assert 0.5 < result["ratios"]["peak_memory"]["one_backward"] < 2
    assert result["held"]["optimizer"] > result["held"]["sums"] > 0
    for step in (result["ordinary"], *result["private"].values()):
        # One leaves out records that are not finite, and is hardly ever entered.
        assert step["fits"] and step["loops_counted_once"] <= 1
        assert set(step["collectives"]) == {"all-reduce"}
        for seconds in step["roofline_seconds"].values():
            assert all(value > 0 for value in seconds.values())
        for name in ("matmul_flops", "memory_traffic"):
            assert sum(step[f"{name}_by_part"].values()) == pytest.approx(step[name])
    parts = result["private"]["one_backward"]["memory_traffic_by_part"]
    assert set(parts) == {"gram", "example_norms", "clipped_sums", "noise", "optimizer", "model"}
    added = result["exchanges_added"]["one_backward"]
    assert set(added["larger"]) == {"all-reduce"}
    assert added["numbers_per_record"] <= 3


def test_layers_that_are_spread_are_gathered_inside_their_loop():
    done = compile_steps("--strategies", "one_backward", "--mesh", "fsdp=4", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for step in (result["ordinary"], *result["private"].values()):
        gathered = step["collectives"]["all-gather"]
        # Four matrices of each layer, for both passes; outside are the tables.
        assert gathered["number_in_loops"] >= 2 * 4 * NUM_LAYERS
        assert gathered["number"] - gathered["number_in_loops"] <= 4
        # The compiler for TPUs writes it as a sum of which each device takes its part.
        assert step["collectives"]["reduce-scatter"]["number_in_loops"] >= 2
    ordinary, private = (
        step["collectives"]["all-gather"]["number_in_loops"]
        for step in (result["ordinary"], result["private"]["one_backward"])
    )
    assert private <= ordinary


def test_a_program_that_is_too_large_is_refused_in_a_sentence():
    done = subprocess.run([sys.executable, "-c", TOO_LARGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "does not fit: the compiler needs 64 GB on each device, and 16.9 GB are available"
    )


def test_a_topology_that_there_is_not_is_refused():
    done = compile_steps("--topology", "v5e:3x5", "--batch-size", "15")
    assert done.returncode == 2
    assert "tpu_aot: topology 'v5e:3x5' is none that the compiler knows" in done.stderr
