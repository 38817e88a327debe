"""What JAX's persistent compilation cache may hold of a run: programs, and nothing secret."""

import collections

import jax
import numpy as np
import pytest

import dpjax
from tests.training.fitting.stored.small_fit import QUIET, make_options


@pytest.fixture
def misses():
    """Names of programs that were compiled, by how often: those in the cache are not."""
    counted = collections.Counter()

    def count(event, **_):
        if event == "/jax/compilation_cache/cache_misses":
            counted["programs"] += 1

    jax.monitoring.register_event_listener(count)
    yield counted
    jax.monitoring.unregister_event_listener(count)


def run(seed, factor, folder):
    options = make_options(run_key=dpjax.RunKey.from_seed(seed), output_dir=folder)
    options["data"] = {name: factor * values for name, values in options["data"].items()}
    options["params"] = {"w": np.full(3, factor, np.float32)}
    return dpjax.fit(**options).run(QUIET)


def test_programs_hold_neither_keys_nor_records_nor_parameters(tmp_path, misses):
    """With others of them, all programs are those of the run before."""
    first = run(1, 1.0, tmp_path / "first")
    compiled = misses["programs"]
    second = run(2, 3.0, tmp_path / "second")
    assert misses["programs"] == compiled
    assert first.params["w"].tolist() != second.params["w"].tolist()


def test_another_program_is_noticed(tmp_path, misses):
    run(1, 1.0, tmp_path / "first")
    compiled = misses["programs"]
    options = make_options(run_key=dpjax.RunKey.from_seed(1), output_dir=tmp_path / "second")
    secret = options["data"]["x"][0]
    options["loss"] = lambda params, record: ((params["w"] * record["x"] - secret) ** 2).sum()
    dpjax.fit(**options).run(QUIET)
    assert misses["programs"] > compiled
