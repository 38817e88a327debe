"""compute.scan_layers=auto: whether the layers of a model run in a loop."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from dpjax.basics.lora_config import ALL_LINEAR
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.setup.plan import Plan
from dpjax.models import TransformerConfig, read_config, resolve_pooling

OPTION = "compute.scan_layers"
# Fewer compile in seconds, and a loop keeps the compiler from working across layers.
_LEAST_LAYERS = 8


def resolve_scan_layers(plan: Plan) -> Plan:
    """Returns a run that knows whether layers run in a loop, and says why, if that was asked.

    Everything that decides is public, and the same when the run is resumed.

    Args:
        plan: what was asked for.
    """
    if plan.config.compute.scan_layers != "auto":
        return plan
    is_loop, said = choose_loop(plan.config, plan.checkpoint, read_config(plan.checkpoint))
    compute = dataclasses.replace(plan.config.compute, scan_layers=is_loop)
    config = dataclasses.replace(plan.config, compute=compute)
    task = plan.task.with_config(config)
    return dataclasses.replace(plan, config=config, task=task, choices=(*plan.choices, *said))


def choose_loop(
    config: FinetuneConfig, checkpoint: Path, model: TransformerConfig
) -> tuple[bool, tuple[str, ...]]:
    """Returns whether the layers of a model run in a loop, and a sentence on it for a deep one.

    Args:
        config: what was asked for.
        checkpoint: the folder of the pretrained model.
        model: its configuration.
    """
    kept = config.num_layers or max(config.features.layers, default=model.num_layers)
    num_layers = min(kept, model.num_layers)
    if num_layers < _LEAST_LAYERS:
        return False, ()
    why_not = _why_not(config, checkpoint, model)
    if why_not is None:
        said = f"the {num_layers} layers run in a loop, which compiles faster"
    else:
        said = f"the {num_layers} layers are compiled one by one, because {why_not}"
    return why_not is None, (f"{OPTION}=auto: {said}",)


def _why_not(config: FinetuneConfig, checkpoint: Path, model: TransformerConfig) -> str | None:
    """What needs layers with arrays of their own; None if nothing does."""
    if (config.features.layers or model.feature_layers) and config.tuning != "head":
        return "the classifier reads features of some, and what is below it is trained"
    if model.averaging_layer:
        return "the last one was appended for the mean of the tokens"
    if config.tuning == "last_layers":
        return "only some are trained"
    if config.tuning == "lora":
        lora = config.lora
        if lora.layers_to_transform is not None:
            return "only some get adapters"
        if lora.start_a != "random":
            return f"lora.start_a={lora.start_a} looks at what enters each"
        names: list[str] = [*lora.modules_to_save]
        for given in (lora.target_modules, lora.exclude_modules):
            if isinstance(given, str) and given != ALL_LINEAR:
                return "a pattern names what gets adapters"
            names += () if isinstance(given, str) else given
        numbered = [name for name in names if any(part.isdigit() for part in name.split("."))]
        # In a regular expression the number of a layer may stand anywhere, but not after a letter.
        patterns = (*lora.ranks(), *lora.alphas())
        numbered += [name for name in patterns if re.search(r"(?<![A-Za-z\d])\d", name)]
        if numbered:
            return f"{numbered[0]!r} lies in one of them"
    makes_classifier = (
        config.task == "sequence_classification"
        and config.head.template is None
        and not config.features.layers
    )
    if (
        makes_classifier
        and model.model_type == "bert"
        and resolve_pooling(checkpoint, config.pooling) == "mean"
    ):
        return "one more is appended for the mean of the tokens"
    return None
