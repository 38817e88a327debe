"""Steps whose state is stored now and then, and which a signal ends without losing one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from dpjax.basics.typing import PyTree
from dpjax.training import Checkpoints, Interrupts, RunInterrupted

_SECONDS = 60.0


class StoredSteps:
    """Where the states of steps are stored, and who says that they are to end.

    Args:
        checkpoints: of these steps alone; the folder is secret.
        interrupts: entered by whoever runs the steps.
        seconds: between the start of one storing and the next.
        say: is told what should be known about damaged states.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        interrupts: Interrupts,
        *,
        say: Callable[[str], None],
        seconds: float = _SECONDS,
    ) -> None:
        self._checkpoints = checkpoints
        self._interrupts = interrupts
        self._say = say
        self._seconds = seconds
        self._stored_at = time.monotonic()

    def restore(self, state: PyTree) -> tuple[int, PyTree]:
        """Returns how many steps are done and the state after them; 0 and what is given if none.

        Args:
            state: of the start.

        Raises:
            FileNotFoundError, ValueError: a stored state is missing or damaged, and no older one
                is left.
        """
        for remark in self._checkpoints.find().remarks:
            self._say(remark)
        return self._checkpoints.restore(state)

    def deferred(self) -> contextlib.AbstractContextManager[None]:
        """Within it the first signal waits for `note`."""
        return self._interrupts.deferred()

    def note(self, step: int, num_steps: int, state: PyTree) -> None:
        """Stores the state after `step` of `num_steps` steps if it is time, or if a signal came.

        Raises:
            RunInterrupted: a signal came; the state is stored.
            OSError: for instance because the disk is full.
        """
        is_stopped = self._interrupts.number is not None
        if is_stopped or time.monotonic() - self._stored_at >= self._seconds:
            self._checkpoints.save(step, state)
            self._stored_at = time.monotonic()
        if is_stopped:
            raise RunInterrupted(
                f"stopped after step {step} of {num_steps} of unlearning; the same command with "
                "--resume goes on from there",
                step,
                self._interrupts.acknowledge(),
            )


def repeat(
    step: Callable[[int, PyTree], PyTree],
    state: PyTree,
    *,
    first: int,
    num_steps: int,
    stored: StoredSteps | None,
) -> PyTree:
    """Does the steps that are left; returns the state after the last.

    Args:
        step: makes the next state of the number of a step, from 0, and the state before it.
        state: after the first steps.
        first: how many are done.
        num_steps: how many there are.
        stored: stores states; None for steps that are done at once.

    Raises:
        RunInterrupted: a signal came; the state is stored.
    """
    with contextlib.ExitStack() as deferring:
        for number in range(first, num_steps):
            state = step(number, state)
            if stored is None:
                continue
            if number == first:
                # Until now an interruption lost nothing, and compiling may take minutes.
                deferring.enter_context(stored.deferred())
            stored.note(number + 1, num_steps, state)
    return state
