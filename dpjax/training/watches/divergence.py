"""Whether training has left the numbers that can be computed with."""

from __future__ import annotations

from dpjax.training.stopped import RunDiverged

_FEWEST_RECORDS = 16


class DivergenceWatch:
    """Looks at every step, and tells a run that diverged from records that have no finite loss.

    One contributor, or a few, must not be able to end a run: without a finite loss among them
    there must be as many records in a row as a batch has, and no fewer than 16.

    Args:
        batch_size: mean size of a batch; the largest one, where it changes.
        advice: what to do about a run that diverged.
    """

    def __init__(self, batch_size: float, advice: str) -> None:
        self._advice = advice
        self._threshold = max(batch_size, _FEWEST_RECORDS)
        self._num_without_loss = 0

    def check_losses(self, step: int, num_records: int, num_losses: int) -> None:
        """Raises RunDiverged if no loss was finite for too long; `step` steps are done."""
        self._num_without_loss = 0 if num_losses else self._num_without_loss + num_records
        if self._num_without_loss >= self._threshold:
            raise self._diverged(
                step, f"none of the last {self._num_without_loss} records has a finite loss"
            )

    def check_parameters(self, step: int, are_finite: bool) -> None:
        """Raises RunDiverged if a parameter is not finite after `step` steps."""
        if not are_finite:
            raise self._diverged(step, "trained parameters are infinite or not numbers")

    def _diverged(self, step: int, what: str) -> RunDiverged:
        return RunDiverged(f"the run diverged: after step {step} {what}; {self._advice}", step)
