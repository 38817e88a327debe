"""A folder of a run of two processes: one keeps it, both end alike, and it goes on elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import dpjax
from dpjax.training import RunStopped
from tests.support.processes import in_two_processes, start_two, wait_for
from tests.training.devices.toy_model import MECHANISM, make_options

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("fits_in_folder.py")
CASES = "whole,refused:whole,two_keys,left_early,stopped,failing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for case in ("whole", "left_early", "stopped", "failing", "killed"):
        (folder / case).mkdir()
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return in_two_processes(SCRIPT, CASES, folder)


@pytest.fixture(scope="module")
def expected():
    return dpjax.fit(**make_options()).run(Console(quiet=True))


@pytest.fixture(autouse=True)
def same_flags(monkeypatch):
    """As the script has them: a run goes on only with the flags that it was started with."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


def is_close(bits, params):
    for name, value in params.items():
        own = np.array(bits[name], np.uint32).view(np.float32)
        np.testing.assert_allclose(own, np.asarray(value), atol=1e-6)


def test_both_come_to_what_one_process_comes_to(found, expected, folder):
    one, other = (each["whole"] for each in found)
    assert one == other and one["epsilon"] == one["total"] == expected.epsilon
    is_close(one["bits"], expected.params)
    names = ["metrics.jsonl", "params.safetensors", "privacy.html", "privacy.json"]
    assert sorted(path.name for path in (folder / "whole" / "run").iterdir()) == names
    # The process that keeps no files writes none.
    assert not list(folder.glob("*/untouched"))


def test_what_the_lead_refuses_all_refuse(found):
    words = "holds another run; name a new folder"
    assert all(each["refused"].endswith(words) for each in found)
    assert found[1]["refused"].startswith("process 0: output_dir")


def test_processes_with_different_keys_refuse_to_begin(found):
    for each in found:
        assert "must be given the same, got different run keys" in each["two_keys"]


def test_a_run_that_was_left_goes_on_bit_by_bit(found):
    for each in found:
        assert (each["left_early"]["early"], each["left_early"]["at"]) == (7, 7)
        assert each["left_early"]["bits"] == each["whole"]["bits"]


def test_a_full_disk_ends_both_before_a_step_that_is_not_on_record(found, folder):
    one, other = (each["failing"] for each in found)
    assert one["steps"] == other["steps"] and one["kind"] == other["kind"] == "RunStoppedByFiles"
    assert other["said"] == f"process 0: {one['said']}"
    assert "make room on the disk, and fit with resume=True" in one["said"]
    privacy = json.loads((folder / "failing" / "run" / "privacy.json").read_text())
    assert privacy["steps_completed"] >= one["steps"][-1]


def test_a_signal_at_one_stops_both_and_one_process_goes_on(found, folder, expected):
    one, other = (each["stopped"] for each in found)
    assert one == other and one["signal"] == 15 and one["steps"] == list(range(1, 8))
    assert one["said"] == "stopped after step 8 of 20; fit with resume=True goes on from there"
    words = "goes on on .*: what it comes to is equal up to rounding only"
    with pytest.warns(RuntimeWarning, match=words):
        run = dpjax.fit(**make_options(), output_dir=folder / "stopped" / "run", resume=True)
    assert run.steps_completed == 8
    result = run.run(Console(quiet=True))
    assert result.epsilon == expected.epsilon
    for name, value in expected.params.items():
        np.testing.assert_allclose(result.params[name], value, atol=1e-6)


def test_one_that_is_killed_ends_the_other_and_the_run_goes_on_bit_by_bit(found, folder):
    started = start_two(SCRIPT, "killed", folder)
    (_, said), _ = wait_for(started)
    assert started[0].returncode and started[1].returncode == -9
    assert "JAX distributed service detected fatal errors" in said
    output_dir = folder / "killed" / "run"
    # Steps of it were shown: with other roundings they are not shown again.
    with pytest.warns(RuntimeWarning, match="up to rounding only"):
        alone = dpjax.fit(**make_options(), output_dir=output_dir, resume=True)
    with pytest.raises(RunStopped, match="was shown before, and comes out with other roundings"):
        alone.run(Console(quiet=True))
    for each, whole in zip(in_two_processes(SCRIPT, "resumed:killed", folder), found, strict=True):
        assert each["resumed"]["bits"] == whole["whole"]["bits"]
        assert 0 < each["resumed"]["at"] < MECHANISM.num_steps
