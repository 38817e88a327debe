"""Where the adapters' A starts when it is not random; kept until the run ends.

Principal components may come out rotated on another machine, which a resumed run must not see.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import jax
import numpy as np
from dpjax_accounting import finish_file
from flax import nnx

from dpjax.finetuning.config import FinetuneConfig
from dpjax.models import (
    LoraLinear,
    SplitModel,
    Trainable,
    load_tokenizer,
    split_trainable,
    start_a_at_principal_directions,
)
from dpjax.training import partial_of, placed_from_lead


def starts_at_principal_a(config: FinetuneConfig) -> bool:
    """Whether a run starts A at principal components."""
    return config.tuning == "lora" and config.lora.start_a == "principal"


def with_principal_a(split: SplitModel, checkpoint: Path, key: jax.Array) -> SplitModel:
    """Returns the model with A at the principal components of its inputs for random texts.

    Args:
        split: the model with adapters.
        checkpoint: for its tokenizer.
        key: for the random texts.
    """
    model = split.merge()
    tokenizer = load_tokenizer(checkpoint, needs_padding=False)
    start_a_at_principal_directions(model, tokenizer, key=key)
    return split_trainable(model, Trainable.lora())


def store_a(split: SplitModel, path: Path) -> None:
    """Writes A into the run's private folder."""
    partial = partial_of(path)
    with partial.open("wb") as file:
        np.savez(file, **_arrays(split))
    finish_file(partial, path)


def with_stored_a(split: SplitModel, path: Path) -> SplitModel:
    """Returns the model with the A that `store_a` wrote.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged; the message says what to do.
    """
    model, arrays = split.merge(), _load(path)
    for name, layer in _adapted_layers(model).items():
        layer.lora_a[...] = arrays[name]
    return split_trainable(model, Trainable.lora())


def with_a_of_lead(split: SplitModel, of_lead: SplitModel | None) -> SplitModel:
    """Returns the model with the A of the lead, in every process; all must call it.

    Args:
        split: the model, perhaps spread over the devices of several processes.
        of_lead: the same with A as it starts; read in the lead only.
    """
    model = split.merge()
    layers = _adapted_layers(model)
    like = {name: layer.lora_a[...] for name, layer in layers.items()}
    placed = placed_from_lead(None if of_lead is None else _arrays(of_lead), like)
    for name, layer in layers.items():
        layer.lora_a[...] = placed[name]
    return split_trainable(model, Trainable.lora())


def _arrays(split: SplitModel) -> dict[str, np.ndarray]:
    """A of each adapted layer, by path."""
    layers = _adapted_layers(split.merge())
    return {name: np.asarray(layer.lora_a[...]) for name, layer in layers.items()}


def _load(path: Path) -> dict[str, np.ndarray]:
    what_to_do = "put a copy of it back, or start afresh with --overwrite or in a new folder"
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise FileNotFoundError(f"cannot resume: {path} is missing; {what_to_do}") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot resume: {path} is damaged ({error}); {what_to_do}") from error


def _adapted_layers(model: nnx.Module) -> dict[str, LoraLinear]:
    """Finds the adapted layers, by path."""
    return {
        ".".join(map(str, path)): node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, LoraLinear)
    }
