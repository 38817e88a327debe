"""What `fit` stores of a run: the state to go on from, and the parameters at its end."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from dpjax_accounting import finish_file

from dpjax.basics.typing import PyTree
from dpjax.training.devices.lead import from_lead, whole_on_host
from dpjax.training.files.atomic import partial_of, steps_on_record
from dpjax.training.files.checkpoints import Checkpoints
from dpjax.training.files.metrics_log import read_rows
from dpjax.training.fitting.stored.directory import FitDirectory
from dpjax.training.fitting.stored.stepwise import StepwiseRun


def restore(run: StepwiseRun, checkpoints: Checkpoints, directory: FitDirectory) -> int:
    """Gives a run that resumes the newest state that is whole; every process calls it.

    Returns:
        How many steps were on record before: so many may have been shown.

    Raises:
        FileNotFoundError, ValueError: as for `Checkpoints.find`; or the state has more steps behind
            it than the run has.
    """
    for remark in from_lead(lambda: list(checkpoints.find().remarks)):
        warnings.warn(remark, RuntimeWarning, stacklevel=4)
    step, (run.params, run.state) = checkpoints.restore_in_all((run.params, run.state))
    if step > run.num_steps:
        raise ValueError(
            f"cannot resume: {step} steps are done, more than the {run.num_steps} planned"
        )
    run.steps_completed = step
    rows: list[dict[str, Any]] = from_lead(lambda: read_rows(directory.metrics))
    run.metrics = [row for row in rows if row["step"] <= step]
    privacy = directory.privacy
    # Without a record of what was seen, all that was planned may have been.
    return from_lead(lambda: steps_on_record(privacy, otherwise=run.num_steps))


def state_to_store(run: StepwiseRun) -> tuple[PyTree, PyTree]:
    """Returns parameters and optimizer state; where several processes train, gathered in each."""
    state = run.params, run.state
    return state if jax.process_count() == 1 else whole_on_host(state)


def are_taken_over(params: PyTree) -> bool:
    """Returns whether a step has begun with these parameters, and has not ended."""
    return any(isinstance(x, jax.Array) and x.is_deleted() for x in jax.tree.leaves(params))


def write_params(path: Path, params: PyTree) -> None:
    """Writes the parameters by their names, such as encoder.layers.0.kernel."""
    from safetensors.numpy import save_file

    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(key, simple=True, separator=".") or "params" for key, _ in leaves]
    if len(set(names)) < len(names):
        names = [jax.tree_util.keystr(key) for key, _ in leaves]
    arrays = {name: np.array(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}
    partial = partial_of(path)
    try:
        save_file(arrays, partial)
        finish_file(partial, path)
    finally:
        partial.unlink(missing_ok=True)
