"""The command, with the compiler for TPUs."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.tpu_aot
TINY = ["--model", "tiny", "--batch-size", "16", "--length", "32", "--vocab-chunk", "128"]


def compile_steps(*options):
    command = [sys.executable, "-m", "benchmarks.tpu_aot", *TINY, *options]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)


def test_a_tiny_step_compiles_and_adds_no_exchange_but_numbers(tmp_path):
    output = tmp_path / "tiny.json"
    done = compile_steps("--strategies", "one_backward", "--output", str(output), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert json.loads(done.stdout) == result
    assert 0.5 < result["ratios"]["peak_memory"]["one_backward"] < 2
    assert result["held"]["optimizer"] > result["held"]["sums"] > 0
    for step in (result["ordinary"], *result["private"].values()):
        assert step["fits"] and not step["loops_counted_once"]
        assert set(step["collectives"]) == {"all-reduce"}
        for seconds in step["roofline_seconds"].values():
            assert all(value > 0 for value in seconds.values())
    added = result["exchanges_added"]["one_backward"]
    assert set(added["larger"]) == {"all-reduce"}
    assert added["numbers_per_record"] <= 3


def test_a_program_that_is_too_large_is_refused_in_a_sentence():
    done = compile_steps("--strategies", "materialize", "--batch-size", "262144")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "materialize does not fit: the compiler needs" in said
    assert "are available" in said


def test_a_topology_that_there_is_not_is_refused():
    done = compile_steps("--topology", "v5e:3x5", "--batch-size", "15")
    assert done.returncode != 0
    assert "topology 'v5e:3x5' is none that the compiler knows" in done.stderr
