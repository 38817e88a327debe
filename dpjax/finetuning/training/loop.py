"""The training loop: sample, accumulate, add noise once, update; log and checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from dpjax_accounting import EpsilonBySteps
from rich.console import Console

from dpjax.data import by_length, trim_padding
from dpjax.finetuning.files import checkpoint
from dpjax.finetuning.files.metrics_log import MetricsLog
from dpjax.finetuning.setup.start import Run
from dpjax.finetuning.tasks.base import Batch
from dpjax.finetuning.training.divergence import DivergenceWatch
from dpjax.finetuning.training.interrupt import Interrupts, RunInterrupted
from dpjax.finetuning.training.optimizer import make_optimizer
from dpjax.finetuning.training.progress import TrainingProgress
from dpjax.finetuning.training.step import (
    NonPrivateTraining,
    PrivateTraining,
    TrainingSteps,
    are_finite,
)
from dpjax.privatize import StepTotal
from dpjax.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Trained:
    """The tuned parameters, and the rows of metrics.jsonl.

    `num_missing_rows` says how many rows the file has lost.
    """

    trainable: PyTree
    metrics: list[dict[str, Any]]
    num_missing_rows: int


def train(
    run: Run, console: Console, note_progress: Callable[[int], None], interrupts: Interrupts
) -> Trained:
    """Runs the steps that are not done yet, and stores the state after the last one.

    Args:
        run: what `set_up` made.
        console: shows the progress.
        note_progress: puts steps on record; called before a state that they led to is stored.
        interrupts: says when to stop.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; the state after the last whole step is stored.
        RunDiverged: parameters or losses are not finite any more.
        OSError: for instance because the disk is full; the state stored before stays.
    """
    plan, directory = run.plan, run.directory
    trainable, frozen = run.model.trainable, run.model.frozen
    training = plan.config.training
    optimizer = make_optimizer(training, plan.num_steps, plan.head)
    steps = _make_steps(run, optimizer)
    spent = None if plan.mechanism is None else EpsilonBySteps(plan.mechanism, plan.delta)
    state = optimizer.init(trainable)
    first, trainable, state = checkpoint.restore(directory.checkpoint, trainable, state)
    watch = DivergenceWatch(training.expected_batch_size)
    progress = TrainingProgress(console, plan.num_steps, first, plan.mechanism is not None)
    with (
        MetricsLog(directory.metrics, keep_steps=first) as log,
        checkpoint.CheckpointWriter(
            directory.checkpoint, training.checkpoint_every_seconds, note_progress
        ) as writer,
        contextlib.ExitStack() as after_first_step,
        progress,
    ):
        still_finite = None
        for step in range(first, plan.num_steps):
            start = time.monotonic()
            total = steps.zeros(trainable, step)
            for batch, mask in _batches(run, steps, step):
                total = steps.add(total, trainable, batch, mask, frozen)
            trainable, state = steps.update(total, step, trainable, state)
            if still_finite is not None:
                # Those before this step: nobody waits for what is being computed.
                watch.check_parameters(step, bool(still_finite))
            still_finite = are_finite(trainable)
            row = _row(step + 1, total, spent, start)
            if step == first:
                # Until now an interruption lost nothing, and compiling may take minutes.
                after_first_step.enter_context(interrupts.deferred())
            log.append(row)
            progress.update(step + 1, row["loss"], row.get("epsilon"), row["num_records"])
            watch.check_losses(step + 1, row["num_records"], int(total.num_losses))
            is_last = step + 1 == plan.num_steps
            is_interrupted = interrupts.number is not None
            if writer.is_due() or is_interrupted or is_last:
                watch.check_parameters(step + 1, bool(still_finite))
                writer.store(step + 1, trainable, state)
            if is_interrupted and not is_last:
                writer.wait()
                raise RunInterrupted(
                    f"stopped after step {step + 1} of {plan.num_steps}; the same command with "
                    "--resume goes on from there",
                    step + 1,
                    interrupts.acknowledge(),
                )
        writer.wait()
        return Trained(trainable, log.rows, log.num_missing)


def _make_steps(run: Run, optimizer: Any) -> TrainingSteps:
    """Makes the steps: with privacy, sampler, clipping and noise read the one mechanism."""
    plan = run.plan
    loss = plan.task.loss_fn(run.model.graphdef)
    present = None if run.audited is None else run.audited.present
    if plan.mechanism is None:
        batch_size = plan.config.training.expected_batch_size
        return NonPrivateTraining(loss, optimizer, plan.num_units, batch_size, run.run_key, present)
    clip_norm = plan.config.privacy.clip_norm
    return PrivateTraining(loss, optimizer, plan.mechanism, clip_norm, run.run_key, present)


def _batches(run: Run, steps: TrainingSteps, step: int) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields the microbatches of a step; each record drops what its own key says."""
    plan, config = run.plan, run.plan.config
    records = plan.train if run.audited is None else run.audited.slots
    drops = config.tuning == "lora" and config.lora.dropout > 0
    dropout_key = run.run_key.dropout_key(step)
    microbatches = steps.batches(
        step,
        microbatch_size=config.training.microbatch_size,
        order=functools.partial(by_length, records),
    )
    for rows, mask in microbatches:
        batch = plan.task.batch(trim_padding(records.take(rows)))
        yield (batch._replace(dropout_keys=_keys_of(dropout_key, rows)) if drops else batch), mask


@jax.jit
def _keys_of(key: jax.Array, rows: np.ndarray) -> jax.Array:
    """Key data `(b, 2)` uint32: that of a record does not depend on the batch it is in."""
    return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, rows))


def _row(step: int, total: StepTotal, spent: EpsilonBySteps | None, start: float) -> dict[str, Any]:
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
    row = {
        "step": step,
        # A batch without records has no loss, nor has one of which no record's loss is finite.
        "loss": mean if math.isfinite(mean) else None,
        "num_records": int(records),
        "records_per_second": int(records) / (time.monotonic() - start),
        "num_nonfinite": int(nonfinite),
    }
    if spent is not None:
        row |= {
            "epsilon": spent.at(step),
            "fraction_clipped": int(clipped) / int(records) if records else None,
        }
    return row
