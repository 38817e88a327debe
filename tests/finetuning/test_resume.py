"""Damaged and missing files of an interrupted run are named, with what to do."""

import json
import shutil

import pytest

import dpjax
from dpjax.training import loop as loop_of_all
from tests.support.runs import check, weights


def test_an_interrupted_run_passes(stopped):
    assert check(stopped).resumes


# What is damaged, the words that name it, and what to do.
AFRESH = r"put a copy of it back, or start afresh with --overwrite or in a new folder"
KEYLESS = r"put a copy of it back, or start it afresh with --overwrite or in a new folder"
AGAIN = r"put a copy of it back, or delete the folder .*checkpoint: a resumed run then does the"
FILES = {
    "identity.json": (AFRESH, AFRESH),
    "run_key.json": (AFRESH, KEYLESS),
    "checkpoint/latest.json": (AGAIN, AGAIN),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_and_missing_files_are_named(stopped, name):
    path = stopped["output_dir"] / "private" / name
    whole = path.read_bytes()
    damaged, missing = FILES[name]
    for torn in (whole[: len(whole) // 2], b"", b"\xff" + whole, b"[]", whole[:-9] + b'"a": 1}\n'):
        path.write_bytes(torn)
        with pytest.raises(ValueError, match=f"{name} is damaged.*{damaged}") as said:
            check(stopped)
        assert "\n" not in str(said.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing.*{missing}"):
        check(stopped)
    path.write_bytes(whole)
    assert check(stopped).resumes


@pytest.mark.parametrize("name", ["manifest.ocdbt", "_METADATA", "ocdbt.process_0/manifest.ocdbt"])
def test_a_damaged_state_is_named(stopped, name):
    path = stopped["output_dir"] / "private" / "checkpoint" / "step_2" / name
    whole = path.read_bytes()
    for torn in (whole[: len(whole) // 2], b"", b"\xff" + whole, None):
        path.unlink() if torn is None else path.write_bytes(torn)
        with pytest.raises(ValueError, match=f"step_2 is damaged; {AGAIN}"):
            check(stopped)
    path.write_bytes(whole)
    assert check(stopped).resumes
    path.with_name("more").write_bytes(b"")
    with pytest.raises(ValueError, match=f"step_2 is damaged; {AGAIN}"):
        check(stopped)
    shutil.rmtree(path.parents[name.count("/")])
    with pytest.raises(FileNotFoundError, match=f"step_2 is missing; {AGAIN}"):
        check(stopped)


def test_a_damaged_key_is_not_quoted(stopped):
    path = stopped["output_dir"] / "private" / "run_key.json"
    secret = json.loads(path.read_text())["secret"]
    path.write_text(json.dumps({"secret": secret[:-1], "fixed_seed": 5}))
    with pytest.raises(ValueError, match="damaged") as said:
        check(stopped)
    assert secret[:8] not in str(said.value)
    assert said.value.__cause__ is None and said.value.__suppress_context__


def test_what_is_not_needed_does_not_stop_a_run(stopped, whole, capsys):
    folder = stopped["output_dir"]
    (folder / "config.json").write_text("{")
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1, "lo\n\xff\xfe{\n')
    (folder / "privacy.json").write_text("")
    shutil.rmtree(folder / "private" / "checkpoint")
    result = dpjax.finetune(**stopped)
    said = capsys.readouterr().out
    assert "config.json was missing or damaged" in said
    assert "checkpoint is missing: the run starts again from its first step" in said
    assert json.loads((folder / "config.json").read_text())["training"]["num_steps"] == 4
    assert weights(folder) == weights(whole.output_dir)
    # From its first step on, so that the log is whole again.
    assert [row["step"] for row in result.metrics] == [1, 2, 3, 4]
    assert result.warnings == ()


def test_rows_that_are_lost_are_said(stopped, whole):
    folder = stopped["output_dir"]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(lines[0][:9] + "\n" + lines[1] + "\n")
    result = dpjax.finetune(**stopped)
    assert weights(folder) == weights(whole.output_dir)
    assert [row["step"] for row in result.metrics] == [2, 3, 4]
    (warning,) = result.warnings
    assert "lost the rows of 1 steps" in warning


def test_steps_that_are_on_record_stay_there(stopped, monkeypatch):
    """A kill after three steps were put on record, before their state was stored."""
    path = stopped["output_dir"] / "privacy.json"
    path.write_text(path.read_text().replace('"steps_completed": 2', '"steps_completed": 3'))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop_of_all, "_done", interrupt)
    with pytest.raises(dpjax.RunInterrupted, match="goes on after step 2"):
        dpjax.finetune(**stopped)
    assert json.loads(path.read_text())["steps_completed"] == 3


@pytest.mark.parametrize("is_missing", [False, True])
def test_a_lost_record_counts_the_steps_of_the_state(stopped, monkeypatch, is_missing):
    path = stopped["output_dir"] / "privacy.json"
    path.write_bytes(path.read_bytes()[:100])
    if is_missing:
        path.unlink()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop_of_all, "_done", interrupt)
    with pytest.raises(dpjax.RunInterrupted, match="goes on after step 2"):
        dpjax.finetune(**stopped)
    assert json.loads(path.read_text())["steps_completed"] == 2
