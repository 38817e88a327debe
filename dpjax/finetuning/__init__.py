"""Fine-tuning runs: options, set-up, training, run directory, privacy report, resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpjax.finetuning.auditing.poison_config import Poison as Poison
from dpjax.finetuning.auditing.poison_config import PoisonConfig as PoisonConfig
from dpjax.finetuning.auditing.poison_result import PoisonResult as PoisonResult
from dpjax.finetuning.auditing.poisoning import audit_poisoning as audit_poisoning
from dpjax.finetuning.config import Audit as Audit
from dpjax.finetuning.config import Compute as Compute
from dpjax.finetuning.config import FeatureOptions as FeatureOptions
from dpjax.finetuning.config import FinetuneConfig as FinetuneConfig
from dpjax.finetuning.config import Generation as Generation
from dpjax.finetuning.config import Head as Head
from dpjax.finetuning.config import PlanConfig as PlanConfig
from dpjax.finetuning.config import Preference as Preference
from dpjax.finetuning.config import Privacy as Privacy
from dpjax.finetuning.config import Tracking as Tracking
from dpjax.finetuning.config import Training as Training
from dpjax.finetuning.config.parse import build_options as build_options
from dpjax.finetuning.files.run_directory import RunDirectory as RunDirectory
from dpjax.finetuning.files.run_directory import RunState as RunState
from dpjax.finetuning.finetune import finetune as finetune
from dpjax.finetuning.planning.plan import plan as plan
from dpjax.finetuning.result import FinetuneResult as FinetuneResult
from dpjax.training import Interrupts as Interrupts
from dpjax.training import RunInterrupted as RunInterrupted
from dpjax.training import RunStopped as RunStopped

if TYPE_CHECKING:
    from dpjax.finetuning.auditing.poison_audit import execute_poisoning as execute_poisoning
    from dpjax.finetuning.planning.forecast import Forecast as Forecast
    from dpjax.finetuning.planning.forecast import ModelForecast as ModelForecast
    from dpjax.finetuning.planning.make import make_forecast as make_forecast
    from dpjax.finetuning.planning.noise import NoiseChoice as NoiseChoice
    from dpjax.finetuning.planning.picture import plot_noise as plot_noise
    from dpjax.finetuning.run import execute as execute
    from dpjax.finetuning.setup.plan import Plan as Plan
    from dpjax.finetuning.setup.plan import prepare as prepare
    from dpjax.finetuning.setup.start import set_up as set_up
    from dpjax.finetuning.tasks.classify_texts import classify as classify
    from dpjax.finetuning.tasks.registry import make_task as make_task

__all__ = [
    "Audit",
    "Compute",
    "FeatureOptions",
    "FinetuneConfig",
    "FinetuneResult",
    "Forecast",
    "Generation",
    "Head",
    "Interrupts",
    "ModelForecast",
    "NoiseChoice",
    "Plan",
    "PlanConfig",
    "Poison",
    "PoisonConfig",
    "PoisonResult",
    "Preference",
    "Privacy",
    "RunDirectory",
    "RunInterrupted",
    "RunState",
    "RunStopped",
    "Tracking",
    "Training",
    "audit_poisoning",
    "build_options",
    "classify",
    "execute",
    "execute_poisoning",
    "finetune",
    "make_forecast",
    "make_task",
    "plan",
    "plot_noise",
    "prepare",
    "set_up",
]

# They load models, which takes a second or two.
_LOADED_LATE = {
    "classify": "dpjax.finetuning.tasks.classify_texts",
    "execute": "dpjax.finetuning.run",
    "execute_poisoning": "dpjax.finetuning.auditing.poison_audit",
    "Forecast": "dpjax.finetuning.planning.forecast",
    "ModelForecast": "dpjax.finetuning.planning.forecast",
    "NoiseChoice": "dpjax.finetuning.planning.noise",
    "Plan": "dpjax.finetuning.setup.plan",
    "make_forecast": "dpjax.finetuning.planning.make",
    "make_task": "dpjax.finetuning.tasks.registry",
    "plot_noise": "dpjax.finetuning.planning.picture",
    "prepare": "dpjax.finetuning.setup.plan",
    "set_up": "dpjax.finetuning.setup.start",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LOADED_LATE:
        return getattr(importlib.import_module(_LOADED_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
