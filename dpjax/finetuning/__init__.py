"""Fine-tuning runs: options, set-up, training, run directory, privacy report, resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpjax.finetuning.config import Audit as Audit
from dpjax.finetuning.config import Compute as Compute
from dpjax.finetuning.config import FinetuneConfig as FinetuneConfig
from dpjax.finetuning.config import Generation as Generation
from dpjax.finetuning.config import Privacy as Privacy
from dpjax.finetuning.config import Tracking as Tracking
from dpjax.finetuning.config import Training as Training
from dpjax.finetuning.files.run_directory import RunDirectory as RunDirectory
from dpjax.finetuning.files.run_directory import RunState as RunState
from dpjax.finetuning.finetune import finetune as finetune
from dpjax.finetuning.result import FinetuneResult as FinetuneResult
from dpjax.training import Interrupts as Interrupts
from dpjax.training import RunInterrupted as RunInterrupted
from dpjax.training import RunStopped as RunStopped

if TYPE_CHECKING:
    from dpjax.finetuning.run import execute as execute
    from dpjax.finetuning.setup.start import set_up as set_up
    from dpjax.finetuning.tasks.registry import make_task as make_task

__all__ = [
    "Audit",
    "Compute",
    "FinetuneConfig",
    "FinetuneResult",
    "Generation",
    "Interrupts",
    "Privacy",
    "RunDirectory",
    "RunInterrupted",
    "RunState",
    "RunStopped",
    "Tracking",
    "Training",
    "execute",
    "finetune",
    "make_task",
    "set_up",
]

# They load models, which takes a second or two.
_LOADED_LATE = {
    "execute": "dpjax.finetuning.run",
    "make_task": "dpjax.finetuning.tasks.registry",
    "set_up": "dpjax.finetuning.setup.start",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LOADED_LATE:
        return getattr(importlib.import_module(_LOADED_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
