"""What is shown while many things are done: a bar in a terminal, elsewhere a line now and then."""

import io

import pytest
from rich.console import Console

from dpjax.training import CountProgress
from dpjax.training.callbacks import progress


def test_a_line_now_and_then(monkeypatch):
    clock = iter([100.0, 110.0, 120.0, 121.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    console = Console(file=io.StringIO(), width=100)
    with CountProgress(console, "computing", 40) as shown:
        for done in (10, 20, 21):
            shown.show(done)
    assert console.file.getvalue() == "computing 20/40 · 20 s left\n"


def test_a_bar_in_a_terminal_goes_away_whatever_happens():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with pytest.raises(KeyboardInterrupt), CountProgress(console, "computing", 4) as shown:
        shown.show(3)
        raise KeyboardInterrupt
    said = console.file.getvalue()
    assert "computing" in said
    # The cursor is shown again.
    assert said.rstrip().rindex("\x1b[?25h") > said.rindex("\x1b[?25l")
