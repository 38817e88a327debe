"""Unlearning: an adapter forgets training records, and is compared with one that never saw them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpjax.unlearning.certified.options import Certified as Certified
from dpjax.unlearning.config import UnlearnConfig as UnlearnConfig
from dpjax.unlearning.result import UnlearningResult as UnlearningResult
from dpjax.unlearning.unlearn import unlearn as unlearn

if TYPE_CHECKING:
    from dpjax.unlearning.certified.noisy_steps import NoisySteps as NoisySteps
    from dpjax.unlearning.run import execute as execute
    from dpjax.unlearning.run import set_up as set_up
    from dpjax.unlearning.steps.noisy_descent import noisy_descent as noisy_descent

__all__ = [
    "Certified",
    "NoisySteps",
    "UnlearnConfig",
    "UnlearningResult",
    "noisy_descent",
    "unlearn",
]

# They load models, which takes a second or two. The last two are for the command.
_LOADED_LATE = {
    "NoisySteps": "dpjax.unlearning.certified.noisy_steps",
    "noisy_descent": "dpjax.unlearning.steps.noisy_descent",
    "execute": "dpjax.unlearning.run",
    "set_up": "dpjax.unlearning.run",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LOADED_LATE:
        return getattr(importlib.import_module(_LOADED_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
