"""`finetune` in two processes of two devices each, over the loopback interface."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import dpjax
from dpjax.training import read_rows
from tests.support.processes import start_two, wait_for

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("finetuned_on_hosts.py")


def lines_of(printed):
    """What a process said of each of its runs."""
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def assert_same_weights(one, other):
    expected, found = (load_file(each / "model" / "model.safetensors") for each in (one, other))
    assert expected.keys() == found.keys()
    for tensor, value in expected.items():
        np.testing.assert_allclose(found[tensor], value, atol=2e-5, err_msg=tensor)


@pytest.fixture(scope="module")
def folder(train_file, tmp_path_factory):
    """With a folder for each process, whose data files are not the same."""
    folder = tmp_path_factory.mktemp("hosts")
    header, *lines = train_file.read_text().splitlines()
    # Cut to texts of one length, they need one program.
    text = "\n".join([header, *(line for line in lines if len(line.split()) > 5)])
    for number, own in enumerate((text, text.replace("good", "bad", 1))):
        (folder / str(number)).mkdir()
        (folder / str(number) / "differs.csv").write_text(own)
    for place in ("train.csv", "0/only in 0.csv"):
        (folder / place).write_text(text)
    return folder


@pytest.fixture(scope="module")
def options(cheap_options, folder):
    training = {"evaluate_every": 2, "checkpoint_every_steps": 1, "max_length": 8}
    return cheap_options | {
        "train_data": folder / "train.csv",
        "training": cheap_options["training"] | training,
        "privacy": cheap_options["privacy"] | {"noise_multiplier": 1.0},
        "audit": {"hold_out": 0.5},
    }


@pytest.fixture(scope="module")
def two_processes(folder, options):
    """What each of two processes said of each run, and the statuses that they ended with."""
    from_outside = {"output_dir": "run", "process": 1}
    runs = {
        "stopped": from_outside | {"event": signal.SIGTERM, "step": 2},
        "resumed": {"output_dir": "run", "resume": True},
        "full disk": {"output_dir": "full", "event": "full disk", "step": 1},
        "other data": {"output_dir": "other", "train_data": "differs.csv"},
        "no data": {"output_dir": "other", "train_data": "only in 0.csv"},
        "other options": {"output_dir": "other", "in_1": {"seed": 6}},
        "used": {"output_dir": "run"},
        "killed": from_outside | {"output_dir": "killed", "event": signal.SIGKILL, "step": 3},
    }
    # Each matrix in four parts, on the devices of both.
    described = [options | {"compute": {"mesh": "fsdp=4"}} | run for run in runs.values()]
    file = folder / "runs.json"
    file.write_text(json.dumps(described, default=str))
    started = start_two(SCRIPT, file)
    ended = wait_for(started)
    told = [dict(zip(runs, lines_of(printed), strict=False)) for printed, _ in ended]
    print(*(said[-3000:] for _, said in ended), sep="\n====\n")
    return *told, [process.returncode for process in started]


@pytest.fixture(scope="module")
def one_process(options, tmp_path_factory):
    """The same run in one process, on one device."""
    return dpjax.finetune(**options, output_dir=tmp_path_factory.mktemp("one") / "run")


def test_two_processes_come_to_what_one_comes_to(two_processes, one_process, folder):
    """Stopped by a signal to the one that keeps no files, and resumed."""
    lead, other, _ = two_processes
    assert lead["stopped"] == other["stopped"]
    assert lead["stopped"]["step"] == 2 and lead["stopped"]["signal"] == signal.SIGTERM
    resumed, files = lead["resumed"], other["resumed"].pop("files")
    assert files == ["differs.csv"]
    assert {"model", "report.md", "audit.json"} <= set(resumed.pop("files"))
    assert resumed == other["resumed"]
    assert resumed["epsilon"] == one_process.epsilon
    assert resumed["accuracy"] == one_process.eval_accuracy
    losses = [row["loss"] for row in one_process.metrics]
    np.testing.assert_allclose(resumed["losses"], losses, rtol=1e-4)
    assert resumed["evaluated"] == pytest.approx([one_process.metrics[1]["eval_loss"]], rel=1e-4)
    scores = [canary["score"] for canary in one_process.audit["canaries"]]
    np.testing.assert_allclose(resumed["scores"], scores, atol=1e-4)
    assert resumed["warnings"] == list(one_process.warnings)
    assert_same_weights(one_process.output_dir, folder / "0" / "run")


def test_what_one_process_finds_all_say(two_processes):
    lead, other, _ = two_processes
    for process, found in enumerate((lead, other)):
        of_0, of_1 = (f"process {each}: " if each != process else "" for each in (0, 1))
        assert found["full disk"]["said"].startswith(
            f"the run stopped in training: {of_0}[Errno 28] No space left on device; make room on"
        )
        assert found["no data"]["said"].startswith(f"{of_1}no file ")
        assert found["used"]["said"].startswith(f"{of_0}output_dir run holds another run")
        for name, what in (("other data", "training data"), ("other options", "seed")):
            assert found[name]["said"].startswith(
                f"the 2 processes of a run must be given the same, got different {what}. Start all"
            )


def test_after_a_kill_one_process_goes_on(
    two_processes, one_process, options, folder, capsys, monkeypatch
):
    # What else the script says to the compiler; it has been read here already.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    lead, other, (lead_status, status) = two_processes
    assert status == -signal.SIGKILL and lead_status != 0
    assert "killed" not in other
    assert "another process has ended or cannot be reached" in lead["killed"]["said"]
    output_dir = folder / "0" / "killed"
    done = [row["loss"] for row in read_rows(output_dir / "metrics.jsonl")]
    assert len(done) >= 2
    # A step after a resumption on the same devices has the same bits.
    assert done == lead["resumed"]["losses"][: len(done)]
    dpjax.finetune(**options, output_dir=output_dir, resume=True)
    assert "was started on cpu: 4 × cpu, data=1,fsdp=4,tensor=1" in capsys.readouterr().out
    assert_same_weights(one_process.output_dir, output_dir)
