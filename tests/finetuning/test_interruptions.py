"""What `dpjax finetune` says when it is interrupted or meets a fault."""

import contextlib
import signal
import subprocess
import sys

import pytest

from dpjax.cli.main import main
from dpjax.finetuning.setup import start
from dpjax.finetuning.training import loop, whole_model
from dpjax.training import loop as loop_of_all


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


@pytest.mark.slow
def test_what_nobody_foresaw_is_a_sentence_before_it_is_a_traceback(
    cheap_options, tmp_path, monkeypatch, capsys
):
    options = cheap_options | {"output_dir": tmp_path / "run"}

    def fault(*_, **__):
        raise KeyError("unheard of")

    for module, name, status in (
        (start, "prepare", "Nothing of the run had been started."),
        (loop_of_all, "_done", "--overwrite starts it afresh."),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fault)
            assert main(words(options)) == 1
        first, *rest = capsys.readouterr().err.strip().splitlines()
        assert "KeyError: 'unheard of'" in first and "report it" in first
        assert first.endswith(status) and rest[0].startswith("Traceback")
    with monkeypatch.context() as patch:
        patch.setattr(whole_model, "save_model", fault)
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

    monkeypatch.setattr(start, "ledger_of", dropping)
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
        "import sys; sys.argv = ['dpjax']; import dpjax.cli.startup, os, signal;"
        "os.kill(os.getpid(), signal.SIGTERM); print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "")
    assert done.stderr.strip() == "dpjax: interrupted before anything was started"


DESTRUCTOR = """
class Dropping:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def drop():
    Dropping()
"""
FINALIZER = """
class Dropping:
    pass
def drop():
    weakref.finalize(Dropping(), signal.raise_signal, signal.SIGINT)
"""
WEAK_DICTIONARY = """
class Dropping:
    pass
class Names(weakref.WeakKeyDictionary):
    # What its callback looks at first.
    _pending_removals = property(
        lambda self: signal.raise_signal(signal.SIGINT) or [], lambda *_: None
    )
def drop():
    names = Names()
    names._iterating = {None}
    names[Dropping()] = 1
"""


@pytest.mark.parametrize("dropping", [DESTRUCTOR, FINALIZER, WEAK_DICTIONARY])
def test_what_a_callback_drops_is_raised_again(dropping):
    code = f"""
import signal, time, weakref
from dpjax.training import Interrupts
{dropping}
with Interrupts() as interrupts:
    try:
        drop()
        time.sleep(60)
    except KeyboardInterrupt:
        print(interrupts.acknowledge() == signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True", "")
