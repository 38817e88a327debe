"""Where a module or parameter of the family's table is in a model, and how to reach it."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from dpjax.models.config import TransformerConfig
from dpjax.models.families import Path

LAYERS = ("transformer", "layers")


def path_in_model(config: TransformerConfig, path: Path) -> Path:
    """A path of the family's table in this model: stacked layers have no number."""
    if config.scan_layers and path[:2] == LAYERS:
        return (*path[:2], *path[3:])
    return path


def get_module(model: nnx.Module, path: Sequence[str | int]) -> nnx.Module:
    """The module at a path."""
    for part in path:
        model = model[part] if isinstance(part, int) else getattr(model, part)
    return model


def set_module(model: nnx.Module, path: Sequence[str | int], value: nnx.Module) -> None:
    """Replace the module at a path."""
    setattr(get_module(model, path[:-1]), path[-1], value)
