"""The tuned model: brought to the one process that keeps the files, and written."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
from dpjax_accounting import finish_folder
from jax.sharding import AxisType

from dpjax.basics.typing import PyTree
from dpjax.finetuning.setup.model.load import model_layout, on_devices
from dpjax.finetuning.setup.start import Run
from dpjax.models import (
    Model,
    has_lora,
    is_own_base,
    merged_copy,
    revision_of,
    save_adapter,
    save_model,
)
from dpjax.training import is_lead, partial_of, whole_on_host

_AXES = ("data", "fsdp", "tensor")


def bring_to_lead(run: Run, trainable: PyTree) -> Run:
    """Returns the run with its tuned model on the devices of this process, in the lead.

    Every process must call it. Of one process it changes nothing but the trained parameters.

    Args:
        run: that has done all steps.
        trainable: its parameters after the last one.
    """
    tuned = run.model.replace(trainable=trainable)
    if jax.process_count() > 1:
        whole = whole_on_host((tuned.trainable, tuned.frozen))
        if not is_lead():
            return run
        tuned = tuned._replace(trainable=whole[0], frozen=whole[1])
        run = dataclasses.replace(run, layout=model_layout(_own_mesh(run)))
        tuned = on_devices(tuned, run.layout)
    return dataclasses.replace(run, model=tuned)


def write_model(run: Run, tuned: Model) -> None:
    """Writes model/ and then adapter/, each as a whole; what is there already stays."""
    plan, directory = run.plan, run.directory

    def write_tuned(folder: Path) -> None:
        labels = plan.task.labels if plan.task.makes_head else ()
        save_model(merged_copy(tuned), folder, source=plan.checkpoint, label_names=labels)

    def write_adapter(folder: Path) -> None:
        revision = revision_of(plan.checkpoint)
        save_adapter(tuned, folder, base=plan.config.model, revision=revision)

    _write_folder(directory.model, write_tuned)
    if has_lora(tuned) and is_own_base(tuned, plan.checkpoint):
        _write_folder(directory.adapter, write_adapter)


def _own_mesh(run: Run) -> jax.sharding.Mesh:
    """The devices of this process: for the records, or for parts of a model that was in parts."""
    devices = jax.local_devices()
    was_whole = run.layout is None or run.layout.mesh.shape["data"] == run.layout.mesh.size
    sizes = (len(devices), 1, 1) if was_whole else (1, len(devices), 1)
    return jax.make_mesh(sizes, _AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def _write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    if folder.exists():
        return
    partial = partial_of(folder)
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    finish_folder(partial, folder)
