"""Where the adapters' A starts when it is not random; kept until the run ends.

Principal components may come out rotated on another machine, which a resumed run must not see.
"""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from dpjax_accounting.safe_files import finish_file
from flax import nnx

from dpjax.finetuning.files.run_directory import partial_of
from dpjax.models import (
    LoraLinear,
    Trainable,
    load_tokenizer,
    split_trainable,
    start_a_at_principal_directions,
)

if TYPE_CHECKING:
    from dpjax.finetuning.run import Run


def with_a_started(run: Run) -> Run:
    """The run with A at principal components if it asks for them: stored ones, or new ones."""
    if not _is_asked_for(run):
        return run
    model = nnx.merge(run.graphdef, run.trainable, run.frozen)
    if run.resumes:
        arrays = _load(run.directory.start_a)
        for name, layer in _adapted(model).items():
            layer.lora_a[...] = arrays[name]
    else:
        key = run.run_key.model_key("random texts")
        start_a_at_principal_directions(
            model, load_tokenizer(run.plan.checkpoint, needs_padding=False), key
        )
    graphdef, trainable, frozen = split_trainable(model, Trainable.lora())
    return dataclasses.replace(run, graphdef=graphdef, trainable=trainable, frozen=frozen)


def store_a(run: Run) -> None:
    """Writes an A that is not random into the run's private folder."""
    if not _is_asked_for(run):
        return
    model = nnx.merge(run.graphdef, run.trainable, run.frozen)
    arrays = {name: np.asarray(layer.lora_a[...]) for name, layer in _adapted(model).items()}
    partial = partial_of(run.directory.start_a)
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    finish_file(partial, run.directory.start_a)


def _load(path: Path) -> dict[str, np.ndarray]:
    what_to_do = "put a copy of it back, or start afresh with --overwrite or in a new folder"
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise FileNotFoundError(f"cannot resume: {path} is missing; {what_to_do}") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot resume: {path} is damaged ({error}); {what_to_do}") from error


def _is_asked_for(run: Run) -> bool:
    config = run.plan.config
    return config.tuning == "lora" and config.lora.start_a == "principal"


def _adapted(model: nnx.Module) -> dict[str, LoraLinear]:
    """The adapted layers by path."""
    return {
        ".".join(map(str, path)): node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, LoraLinear)
    }
