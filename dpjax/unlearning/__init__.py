"""Unlearning: an adapter forgets training records, and is compared with one that never saw them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpjax.unlearning.config import UnlearnConfig as UnlearnConfig
from dpjax.unlearning.result import UnlearningResult as UnlearningResult
from dpjax.unlearning.unlearn import unlearn as unlearn

if TYPE_CHECKING:
    from dpjax.unlearning.run import execute as execute
    from dpjax.unlearning.run import set_up as set_up

__all__ = ["UnlearnConfig", "UnlearningResult", "unlearn"]

# For the command. They load models, which takes a second or two.
_LOADED_LATE = ("execute", "set_up")


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LOADED_LATE:
        return getattr(importlib.import_module("dpjax.unlearning.run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
