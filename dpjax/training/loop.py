"""The loop that every run shares: sample, accumulate, add noise once, update."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from dpjax_accounting import EpsilonBySteps

from dpjax.basics.typing import PyTree
from dpjax.privatize import StepTotal
from dpjax.training.steps import TrainingSteps, are_finite
from dpjax.training.watches.divergence import DivergenceWatch
from dpjax.training.watches.gradients import GradientWatch

# step -> microbatches of its batch, with which of the records count.
MicrobatchesOfStep = Callable[[int], Iterable[tuple[PyTree, Any]]]


@dataclasses.dataclass(frozen=True, eq=False)
class StepDone:
    """A step that was done. All but ε is computed from private records without noise.

    Attributes:
        step: how many steps are done.
        params: the parameters after it; their buffers are taken over by the next step.
        state: the optimizer's state after it, likewise.
        num_records: how many records its batch had.
        num_nonfinite: how many of them had a gradient that is not finite, and were left out.
        num_losses: how many had a finite loss.
        loss: the mean of these losses; None without any.
        records_per_second: of this step.
        epsilon: spent so far; None without privacy.
        fraction_clipped: share of the records whose gradient was longer than the clip norm; None
            without privacy or records.
        are_finite: a boolean scalar on the device, whether all parameters are finite.
        remark: what whoever trains should know about it; None where there is nothing.
        clip_norm: C of this step, where it adapts; else None.
    """

    step: int
    params: PyTree
    state: PyTree
    num_records: int
    num_nonfinite: int
    num_losses: int
    loss: float | None
    records_per_second: float
    epsilon: float | None
    fraction_clipped: float | None
    are_finite: jax.Array
    remark: str | None
    clip_norm: float | None = None

    def row(self) -> dict[str, Any]:
        """Returns the numbers of the step, ready for JSON."""
        row = {
            "step": self.step,
            "loss": self.loss,
            "num_records": self.num_records,
            "records_per_second": self.records_per_second,
            "num_nonfinite": self.num_nonfinite,
        }
        if self.epsilon is not None:
            row |= {"epsilon": self.epsilon, "fraction_clipped": self.fraction_clipped}
        if self.clip_norm is not None:
            row["clip_norm"] = self.clip_norm
        return row


def run_steps(
    steps: TrainingSteps,
    batches: MicrobatchesOfStep,
    params: PyTree,
    state: PyTree,
    frozen: PyTree,
    *,
    first: int,
    num_steps: int,
    spent: EpsilonBySteps | None,
    watch: DivergenceWatch,
) -> Iterator[StepDone]:
    """Runs steps one after another, and hands out each one that is done.

    Args:
        steps: how a step is computed.
        batches: gives the microbatches of a step.
        params: the parameters to start from; their buffers are taken over.
        state: the optimizer's state to start from, likewise.
        frozen: what the loss reads beside them.
        first: how many steps are done already.
        num_steps: how many there are.
        spent: knows ε after each step; None without privacy.
        watch: is told whether parameters were finite after the step before.

    Raises:
        RunDiverged: as `watch` says.
    """
    still_finite = None
    gradients = GradientWatch()
    for step in range(first, num_steps):
        start = time.monotonic()
        total, params = steps.begin(params, step, state)
        for batch, mask in batches(step):
            total, params = steps.add(total, params, batch, mask, frozen)
        gradients.look(total)
        params, state = steps.update(total, step, params, state)
        if still_finite is not None:
            # Those before this step: nobody waits for what is being computed.
            watch.check_parameters(step, bool(still_finite))
        still_finite = are_finite(params)
        yield _done(step + 1, params, state, total, spent, still_finite, gradients, start)


def _done(
    step: int,
    params: PyTree,
    state: PyTree,
    total: StepTotal,
    spent: EpsilonBySteps | None,
    still_finite: jax.Array,
    gradients: GradientWatch,
    start: float,
) -> StepDone:
    # The clock is read after this: a call only starts the work that these numbers wait for.
    loss, records, clipped, nonfinite, losses = jax.device_get(
        (
            total.loss,
            total.num_records,
            total.num_clipped,
            total.num_nonfinite,
            total.num_losses,
        )
    )
    mean = float(loss) / int(losses) if losses else math.nan
    is_clipped = spent is not None and records
    return StepDone(
        step=step,
        params=params,
        state=state,
        num_records=int(records),
        num_nonfinite=int(nonfinite),
        num_losses=int(losses),
        # A batch without records has no loss, nor has one of which no record's loss is finite.
        loss=mean if math.isfinite(mean) else None,
        records_per_second=int(records) / (time.monotonic() - start),
        epsilon=None if spent is None else spent.at(step),
        fraction_clipped=int(clipped) / int(records) if is_clipped else None,
        are_finite=still_finite,
        remark=gradients.remark(int(records) - int(nonfinite)),
        clip_norm=None if total.clip_norm is None else float(total.clip_norm),
    )
