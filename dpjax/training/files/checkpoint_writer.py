"""States are stored now and then by a thread of its own, while training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from dpjax.basics.typing import PyTree
from dpjax.training.devices.lead import copy_whole
from dpjax.training.files.checkpoints import Checkpoints


class CheckpointWriter:
    """Stores the state now and then in a thread of its own, while training goes on.

    Args:
        checkpoints: where to.
        note_progress: puts the steps that were done on record; called before their state is stored.
        seconds: between the start of one and that of the next, unless writing takes longer; None
            for no such rule.
        steps: likewise, counted in steps.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        note_progress: Callable[[int], None],
        *,
        seconds: float | None,
        steps: int | None = None,
    ) -> None:
        self._checkpoints = checkpoints
        self._seconds = seconds
        self._steps = steps
        self._note_progress = note_progress
        self._started = time.monotonic()
        self._num_since = 0
        self._pending: Future[None] | None = None
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def is_due(self) -> bool:
        """Whether it is time to store the state, and the one before is stored; once a step.

        Raises:
            Exception: what storing the one before raised.
        """
        self._num_since += 1
        if self._pending is not None and self._pending.done():
            self.wait()
        if self._pending is not None:
            return False
        is_time = self._seconds is not None and time.monotonic() - self._started >= self._seconds
        return is_time or (self._steps is not None and self._num_since >= self._steps)

    def store(self, step: int, state: PyTree) -> None:
        """Copies the state after `step` steps to the host, and has it stored.

        Where several processes train, those that do not store call `whole_on_host` meanwhile.
        """
        self.wait()
        self._started = time.monotonic()
        self._num_since = 0
        # A copy: the buffers are donated to the next step.
        copied = jax.tree.map(copy_whole, state)
        self._pending = self._pool.submit(self._write, step, copied)

    def wait(self) -> None:
        """Returns once what was to be stored is stored; raises what that raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, step: int, state: PyTree) -> None:
        self._note_progress(step)
        self._checkpoints.save(step, state)

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()
