"""`dpjax demo`: two small runs side by side."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from rich.console import Console


@dataclasses.dataclass(frozen=True)
class DemoCommand:
    """Tune MiniLM on generated clinic messages, privately and not, and compare."""

    output_dir: str = "runs/demo"
    """New folder for both runs."""

    def prepare(self) -> ReadyDemo:
        """Finds the checkpoint and refuses a folder that holds something."""
        from dpjax import demo

        return ReadyDemo(functools.partial(demo.execute, demo.check(self.output_dir)))


@dataclasses.dataclass(frozen=True)
class ReadyDemo:
    """A demo that has passed its checks."""

    execute: Callable[[Console], None]

    def run(self, console: Console) -> int:
        """Runs the demo, which prints its table, and returns 0."""
        self.execute(console)
        return 0
