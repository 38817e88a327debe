"""Synthetic records of a private run: options, drawing, report, comparison with private ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpjax.synthesis.config import SynthesisConfig as SynthesisConfig
from dpjax.synthesis.result import SynthesisResult as SynthesisResult
from dpjax.synthesis.synthesize import synthesize as synthesize

if TYPE_CHECKING:
    from dpjax.synthesis.run import execute as execute
    from dpjax.synthesis.run import set_up as set_up

__all__ = ["SynthesisConfig", "SynthesisResult", "synthesize"]

# For the command. They load models, which takes a second or two.
_LOADED_LATE = ("execute", "set_up")


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LOADED_LATE:
        return getattr(importlib.import_module("dpjax.synthesis.run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
