"""A run with a folder, in a process that does not keep its files: the lead does."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from dpjax.training.devices.lead import Agreed, agree_with_lead, from_lead
from dpjax.training.files.interrupt import Interrupts, interrupts_of_loop
from dpjax.training.fitting.stored.sentences import AGAIN, interrupted
from dpjax.training.fitting.stored.shown import fingerprint
from dpjax.training.fitting.stored.states import are_taken_over, state_to_store
from dpjax.training.fitting.stored.stepwise import StepwiseRun
from dpjax.training.loop import StepDone
from dpjax.training.stopped import RunInterrupted, RunStopped, RunStoppedByFiles


@dataclasses.dataclass(eq=False)
class FollowedRun:
    """Takes part in what the lead's `StoredRun` asks of all processes, and writes nothing.

    Attributes:
        floor: how many steps were on record before this process did any.
        shown_until: the last step that anybody has seen the parameters of; 0 if none.
    """

    floor: int = 0
    shown_until: int = 0
    _is_following: bool = False
    _is_finished: bool = False
    _is_put_down: bool = True

    def steps_released(self, run: StepwiseRun) -> int:
        """Returns how many steps somebody may have seen: none is forgotten after a crash."""
        return max(run.steps_completed, self.floor)

    def follow(self, run: StepwiseRun, *, shows: bool) -> Iterator[StepDone]:
        """Does the steps that are left, one at a time, as long as the lead goes on.

        Args:
            run: that does the steps.
            shows: whether anybody sees the parameters in between; the lead notes them.

        Raises:
            RunInterrupted: Ctrl-C or SIGTERM, in any process; the lead has stored the state.
            RunStopped, OSError: what the lead could not do.
            RunDiverged: parameters or losses are not finite any more.
        """
        if self._is_finished:
            return
        self._is_following = True
        try:
            with interrupts_of_loop() as interrupts:
                yield from self._follow(run, interrupts, shows)
        finally:
            self._is_following = False

    def put_down(self, run: StepwiseRun) -> None:
        """Gives the lead the state of a run that was left early, unless it has it already.

        Raises:
            RunStopped, OSError: what the lead could not do.
        """
        if self._is_put_down or self._is_following or are_taken_over(run.params):
            return
        state_to_store(run)
        agree_with_lead(signal=None)
        self._is_put_down = True

    def total(self, run: StepwiseRun) -> dict[str, Any] | None:
        """Returns what all runs on the data set have spent, by the lead's ledger."""
        return from_lead(lambda: None)

    def _follow(self, run: StepwiseRun, interrupts: Interrupts, shows: bool) -> Iterator[StepDone]:
        first = run.steps_completed
        agree_with_lead(signal=None)
        try:
            with contextlib.ExitStack() as after_first_step:
                for done in run.steps_left():
                    self._is_put_down = False
                    if done.step == first + 1:
                        after_first_step.enter_context(interrupts.deferred())
                    if shows or done.step <= self.shown_until:
                        fingerprint(done.params)
                    agreed = self._agree(run, interrupts)
                    if done.step == run.num_steps:
                        self._finish(run)
                    elif agreed.stores or agreed.signal is not None:
                        run.watch.check_parameters(done.step, bool(done.are_finite))
                        state_to_store(run)
                    if agreed.signal is not None:
                        self._is_put_down = True
                        interrupts.acknowledge()
                        raise interrupted(done.step, run.num_steps, agreed.signal)
                    yield done
            if not self._is_finished:
                self._finish(run)
        except RunInterrupted:
            raise
        except KeyboardInterrupt:
            raise RunInterrupted(
                f"stopped at once; {AGAIN} goes on from the state that process 0 has stored",
                run.steps_completed,
                interrupts.acknowledge(),
            ) from None

    def _agree(self, run: StepwiseRun, interrupts: Interrupts) -> Agreed:
        try:
            return agree_with_lead(signal=interrupts.number)
        except RunStoppedByFiles:
            raise
        except RunStopped:
            # As in the lead: the step was shown with other roundings before.
            run.params = run.state = None
            self._is_put_down = True
            raise

    def _finish(self, run: StepwiseRun) -> None:
        state_to_store(run)
        agree_with_lead(signal=None)
        self._is_finished = self._is_put_down = True
