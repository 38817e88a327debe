"""What is kept of each step, by the process that keeps the files of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from dpjax.basics.typing import PyTree
from dpjax.finetuning.setup.start import Run
from dpjax.training import Callback, CallbackCaller, CheckpointWriter, MetricsLog


class StepFiles:
    """Rows of metrics.jsonl, what callbacks are told, and states to go on from.

    Args:
        run: whose folder it is.
        first: how many steps are done already.
        note_progress: puts steps on record; called before a state that they led to is stored.
        callbacks: are told of each step.
    """

    def __init__(
        self,
        run: Run,
        first: int,
        note_progress: Callable[[int], None],
        callbacks: Sequence[Callback],
    ) -> None:
        training = run.plan.config.training
        self._opened = contextlib.ExitStack()
        self._log = self._opened.enter_context(MetricsLog(run.directory.metrics, keep_steps=first))
        self._writer = self._opened.enter_context(
            CheckpointWriter(
                run.checkpoints,
                note_progress,
                seconds=training.checkpoint_every_seconds,
                steps=training.checkpoint_every_steps,
            )
        )
        self._caller = self._opened.enter_context(CallbackCaller(callbacks))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl."""
        return self._log.rows

    @property
    def num_missing(self) -> int:
        """How many rows the file has lost."""
        return self._log.num_missing

    @property
    def remarks(self) -> list[str]:
        """A sentence on each callback that has failed."""
        return self._caller.remarks

    def keep(self, row: dict[str, Any]) -> bool:
        """Writes the row of a step, tells the callbacks, and says whether a state is due."""
        self._log.append(row)
        self._caller.on_step(row)
        return self._writer.is_due()

    def store(self, step: int, state: PyTree) -> None:
        """Has the state stored, in a thread of its own."""
        self._writer.store(step, state)

    def wait(self) -> None:
        """Returns once what was to be stored is stored; raises what that raised."""
        self._writer.wait()

    def __enter__(self) -> StepFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()
