"""Where the adapters' A starts when it is not random; kept until the run ends.

Principal components may come out rotated on another machine, which a resumed run must not see.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from flax import nnx

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
    stored = run.directory.start_a
    if stored.exists():
        with np.load(stored) as arrays:
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
    partial = run.directory.start_a.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(run.directory.start_a)


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
