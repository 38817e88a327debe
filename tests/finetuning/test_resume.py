"""What `--resume` refuses, each in a sentence that says what to do, and what it starts afresh."""

import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dpjax
from dpjax.cli.main import main
from dpjax.finetuning import run, set_up
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.files.directory_lock import RunInUse
from dpjax.finetuning.files.run_directory import RunDirectory, RunState
from dpjax.finetuning.setup import identity
from dpjax.finetuning.training import loop


@pytest.fixture
def stopped(cheap_options, interrupted, tmp_path):
    """Options of a run that was interrupted after two steps, in a copy of its folder."""
    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder)
    return cheap_options | {"output_dir": folder, "resume": True}


def check(options):
    """Everything that a run does before it compiles or writes."""
    plain = {
        name: str(value) if isinstance(value, os.PathLike) else value
        for name, value in options.items()
    }
    ready = set_up(FinetuneConfig.from_options(plain))
    ready.lock.release()
    return ready


def weights(folder):
    return (folder / "model" / "model.safetensors").read_bytes()


def test_an_interrupted_run_passes(stopped):
    assert check(stopped).resumes


# What is damaged, the words that name it, and what to do.
AFRESH = r"put a copy of it back, or start afresh with --overwrite or in a new folder"
KEYLESS = r"put a copy of it back, or start it afresh with --overwrite or in a new folder"
AGAIN = r"put a copy of it back, or delete the folder .*checkpoint: then --resume runs the steps"
FILES = {
    "identity.json": (AFRESH, AFRESH),
    "run_key.json": (AFRESH, KEYLESS),
    "checkpoint/latest.json": (AGAIN, AGAIN),
    "checkpoint/step_2.safetensors": (AGAIN, AGAIN),
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


def change_weights(options, tmp_path, patch):
    folder = tmp_path / "changed"
    shutil.copytree(options["model"], folder)
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + np.float32(1e-6)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    original = identity.hash_of_checkpoint
    assert original(folder) != original(options["model"])
    # The same name with other weights in it.
    patch.setattr(identity, "hash_of_checkpoint", lambda _: original(folder))


def jax_option(name, value):
    def change(options, tmp_path, patch):
        before = getattr(jax.config, name)
        settings = identity.jax_settings()
        jax.config.update(name, value)
        changed = identity.jax_settings()
        jax.config.update(name, before)
        assert changed != settings
        patch.setattr(identity, "jax_settings", lambda: changed)

    return change


def change_version(options, tmp_path, patch):
    version = identity.version
    patch.setattr(identity, "version", lambda name: version(name) + ".1" * (name == "jaxlib"))


def change_devices(options, tmp_path, patch):
    patch.setattr(identity, "environment", lambda: {"devices": "4 × H200"})


CHANGES = {
    "weights": (change_weights, "the weights or the configuration in .* are not those"),
    "threefry": (
        jax_option("jax_threefry_partitionable", False),
        "jax_threefry_partitionable=True, which is False now",
    ),
    "x64": (jax_option("jax_enable_x64", True), "jax_enable_x64=False, which is True now"),
    "prng": (jax_option("jax_default_prng_impl", "rbg"), "jax_default_prng_impl=threefry2x32"),
    "precision": (
        jax_option("jax_default_matmul_precision", "bfloat16"),
        "jax_default_matmul_precision=None, which is bfloat16 now",
    ),
    "version": (change_version, r"with jaxlib [\d.]+, here is jaxlib [\d.]+\.1"),
    "devices": (change_devices, "started on cpu: .*, this is cpu: 4 × H200"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_sums_or_draws_is_refused(stopped, tmp_path, monkeypatch, name):
    change, words = CHANGES[name]
    change(stopped, tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=f"cannot resume: .*{words}"):
        check(stopped)


def test_other_evaluation_data_is_refused(cheap_options, tmp_path, stop_after):
    path = tmp_path / "eval.csv"
    path.write_text(cheap_options["eval_data"].read_text())
    options = cheap_options | {"eval_data": path, "output_dir": tmp_path / "run"}
    stop_after(1, **options)
    path.write_text(path.read_text().replace("lovely", "awful"))
    with pytest.raises(ValueError, match="cannot resume: the evaluation data is not what"):
        check(options | {"resume": True})


def test_the_compilers_flags_are_compared(stopped, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    with pytest.raises(ValueError, match=r"cannot resume: .*XLA_FLAGS=.*fast_math"):
        check(stopped)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": {"microbatch_size": 8}}, r"training\.microbatch_size=16, now it is 8"),
        ({"privacy": {"noise_multiplier": 5.0}}, r"privacy\.noise_multiplier=4\.0, now it is 5\.0"),
        ({"tuning": "full"}, "tuning=head, now it is full"),
        ({"seed": 6}, "seed=5, now it is 6"),
    ],
)
def test_other_options_are_named(stopped, change, words):
    changed = {
        name: stopped[name] | value if isinstance(value, dict) else value
        for name, value in change.items()
    }
    with pytest.raises(ValueError, match=f"cannot resume: .*{words}"):
        check(stopped | changed)


def test_what_changes_no_result_may_change(stopped, tmp_path):
    moved = tmp_path / "moved"
    stopped["output_dir"].rename(moved)
    training = stopped["training"] | {"checkpoint_every_seconds": 5.0}
    assert check(stopped | {"output_dir": moved, "training": training}).resumes


def test_the_checkpoints_hash_sees_every_file_that_is_computed_with(tiny_checkpoint, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, folder)
    before = identity.hash_of_checkpoint(folder)
    assert before == identity.hash_of_checkpoint(tiny_checkpoint)
    (folder / "README.md").write_text("words")
    assert identity.hash_of_checkpoint(folder) == before
    for name in ("config.json", "model.safetensors.index.json", "model-2.safetensors"):
        (folder / name).write_text("{}")
        after = identity.hash_of_checkpoint(folder)
        assert after != before
        before = after


def test_the_date_of_the_start_is_kept(stopped):
    path = stopped["output_dir"] / "private" / "identity.json"
    stored = json.loads(path.read_text())
    age = datetime.datetime.now() - datetime.datetime.fromisoformat(stored["started_at"])
    assert datetime.timedelta() <= age < datetime.timedelta(days=1)
    stored["started_at"] = "2025-02-03T23:59:00"
    path.write_text(json.dumps(stored))
    ready = check(stopped)
    assert ready.plan.started_at == datetime.datetime(2025, 2, 3, 23, 59)
    assert ready.identity["started_at"] == stored["started_at"]


def test_a_folder_is_locked_while_it_is_used(cheap_options, whole, tmp_path, monkeypatch):
    options = cheap_options | {"output_dir": tmp_path / "run"}
    update, said = loop.TrainingProgress.update, []

    def second(self, step, *arguments):
        update(self, step, *arguments)
        for changes in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(RunInUse, match=r"in use by another process.*wait") as refused:
                check(options | changes)
            said.append(str(refused.value))

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingProgress, "update", second)
        result = dpjax.finetune(**options)
    assert len(said) == 12 and weights(result.output_dir) == weights(whole.output_dir)


def test_of_two_that_passed_the_check_one_starts(cheap_options, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    plain = {name: str(v) if isinstance(v, os.PathLike) else v for name, v in cheap_options.items()}
    config = FinetuneConfig.from_options(plain | {"output_dir": str(folder)})
    first, second = set_up(config), set_up(config)
    update = loop.TrainingProgress.update

    def meanwhile(self, step, *arguments):
        update(self, step, *arguments)
        with pytest.raises(RunInUse):
            run.execute(second)

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingProgress, "update", meanwhile)
        run.execute(first)
    with pytest.raises(FileExistsError, match="holds another run"):
        run.execute(second)


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "what comes before the key"])
def test_what_has_not_used_its_key_is_started(cheap_options, whole, tmp_path, left, capsys):
    folder = tmp_path / "run"
    if left != "nothing":
        folder.mkdir()
    if left.startswith("what"):
        (folder / "private" / "checkpoint").mkdir(parents=True)
        (folder / "private" / "identity.json").write_text("{")
        (folder / "private" / "run_key.json.partial").write_text("{")
        (folder / "config.json.partial").write_text("")
        with pytest.raises(FileExistsError, match=r"holds another run.*--resume"):
            dpjax.finetune(**cheap_options, output_dir=folder)
    result = dpjax.finetune(**cheap_options, output_dir=folder, resume=True)
    assert "nothing to resume" in capsys.readouterr().out
    assert weights(result.output_dir) == weights(whole.output_dir)


def test_overwrite_deletes_an_unfinished_run_and_nothing_else(stopped, whole, capsys):
    folder = stopped["output_dir"]
    options = stopped | {"resume": False, "overwrite": True}
    (folder / "letter.txt").write_text("dear")
    run_id = json.loads((folder / "privacy.json").read_text())["run"]["id"]
    result = dpjax.finetune(**options)
    assert "had spent ε = " in capsys.readouterr().out
    assert result.privacy["run"]["id"] != run_id and (folder / "letter.txt").exists()
    assert weights(folder) == weights(whole.output_dir)


def test_overwrite_does_not_touch_other_folders(cheap_options, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="files of no run"):
        dpjax.finetune(**cheap_options, output_dir=tmp_path, overwrite=True)
    with pytest.raises(ValueError, match="give one of them"):
        dpjax.finetune(**cheap_options, output_dir=tmp_path, overwrite=True, resume=True)
    assert RunDirectory(tmp_path).state() is RunState.OTHER


def words(options):
    """The command line of a run."""
    named = {
        "--model": options["model"],
        "--train-data.path": options["train_data"],
        "--eval-data.path": options["eval_data"],
        "--output-dir": options["output_dir"],
        "--privacy.noise-multiplier": 4,
        "--training.expected-batch-size": 40,
        "--training.num-steps": 2,
        "--training.max-length": 16,
        "--tuning": "head",
    }
    return ["finetune", *(str(word) for pair in named.items() for word in pair)]


def test_what_nobody_foresaw_is_a_sentence_before_it_is_a_traceback(
    cheap_options, tmp_path, monkeypatch, capsys
):
    options = cheap_options | {"output_dir": tmp_path / "run"}

    def fault(*_, **__):
        raise KeyError("unheard of")

    for module, name, status in (
        (run, "prepare", "Nothing of the run had been started."),
        (loop, "_row", "--overwrite starts it afresh."),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fault)
            assert main(words(options)) == 1
        first, *rest = capsys.readouterr().err.strip().splitlines()
        assert "KeyError: 'unheard of'" in first and "report it" in first
        assert first.endswith(status) and rest[0].startswith("Traceback")
    with monkeypatch.context() as patch:
        patch.setattr(run, "save_model", fault)
        assert main([*words(options), "--overwrite"]) == 1
    assert "--resume goes on from there" in capsys.readouterr().err.splitlines()[0]
    assert main([*words(options), "--resume"]) == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_an_interruption_is_a_sentence_and_a_status(
    cheap_options, tmp_path, monkeypatch, capsys, number, status
):
    options = cheap_options | {"output_dir": tmp_path / "run"}

    def dropping(*_):
        # As a library might.
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)

    monkeypatch.setattr(run.RunLedger, "of", classmethod(dropping))
    assert main(words(options)) == status
    assert "nothing was started" in capsys.readouterr().err
    assert not options["output_dir"].exists()
    monkeypatch.undo()
    update = loop.TrainingProgress.update

    def stop(self, *arguments):
        update(self, *arguments)
        signal.raise_signal(number)

    monkeypatch.setattr(loop.TrainingProgress, "update", stop)
    assert main(words(options)) == status
    assert "stopped after step 1 of 2" in capsys.readouterr().err


def test_an_interruption_while_the_command_is_loading():
    code = (
        "import sys; sys.argv = ['dpjax']; import dpjax.startup, os, signal;"
        "os.kill(os.getpid(), signal.SIGTERM); print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "")
    assert done.stderr.strip() == "dpjax: interrupted before anything was started"


def test_what_a_garbage_collector_drops_is_raised_again():
    code = """
import gc, signal, time
from dpjax.finetuning.training.interrupt import Interrupts
class Dropping:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
with Interrupts() as interrupts:
    try:
        Dropping()
        time.sleep(60)
    except KeyboardInterrupt:
        print(interrupts.acknowledge() == signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True", "")
