"""compute.cache_frozen=auto: whether the frozen part is computed once, before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.setup.identity import COMPUTED_ONCE
from dpjax.finetuning.setup.model.features import find_features
from dpjax.finetuning.setup.plan import Plan
from dpjax.finetuning.setup.steps import abstract_split, drops_inputs
from dpjax.finetuning.tasks.features import Features
from dpjax.lora_config import ALL_LINEAR
from dpjax.privatize import UnreadableProgramError, host_memory
from dpjax.training import in_words

OPTION = "compute.cache_frozen"
# The rest is for the records, the model and whatever else runs on the machine.
_SHARE_OF_MEMORY = 4
# Of a step, forward and backward: reading features takes time too.
_LEAST_GAIN = 0.05


def resolve_cache(plan: Plan, stored: Mapping[str, Any]) -> Plan:
    """Returns a run that knows what is computed once per record, and says so. Traces the loss.

    Roundings differ a little between both ways, so a resumed run keeps to how it was started.

    Args:
        plan: what was asked for; compute.vocab_chunk=auto must have been resolved.
        stored: the identity of the run that is resumed, which says how it was started; empty for a
            new one.
    """
    features = _find(plan) if _may_be_cached(plan.config) else None
    if features is None:
        return plan
    needed, limit = _most_bytes(plan, features), host_memory() // _SHARE_OF_MEMORY
    if jax.process_count() > 1:
        why = "several processes train"
    elif not stored.get(COMPUTED_ONCE, True):
        why = "so it was in the steps that are done"
    elif needed > limit and COMPUTED_ONCE not in stored:
        why = (
            f"its results would take up to {in_words(needed)}, and 1/{_SHARE_OF_MEMORY} of this "
            f"machine's memory is {in_words(limit)}"
        )
    else:
        said = _sentence(features, needed)
        return dataclasses.replace(plan, choices=(*plan.choices, said), features=features)
    said = f"{OPTION}=auto: each step computes the frozen part of the model again, because {why}"
    return dataclasses.replace(plan, choices=(*plan.choices, said))


def _may_be_cached(config: FinetuneConfig) -> bool:
    """Whether it is worth a look: elsewhere something is trained in the lowest layer."""
    if config.compute.cache_frozen == "never" or drops_inputs(config):
        return False
    if config.tuning == "lora":
        lora = config.lora
        return lora.layers_to_transform is not None or lora.target_modules != ALL_LINEAR
    return config.tuning in ("head", "last_layers")


def _find(plan: Plan) -> Features | None:
    """What can be computed once; None if that would hardly make steps faster."""
    try:
        features = find_features(plan, abstract_split(plan))
    except UnreadableProgramError:
        return None
    if features is None:
        return None
    # The backward pass of what is trained takes twice as many as its forward pass.
    step = features.share + 3 * (1 - features.share)
    return features if features.share >= _LEAST_GAIN * step else None


def _most_bytes(plan: Plan, features: Features) -> int:
    """Bytes if all records were of the greatest length: public, whatever the records are."""
    num_records = len(plan.train) + plan.config.audit.num_canaries
    return num_records * features.bytes_of_longest


def _sentence(features: Features, most_bytes: int) -> str:
    shapes = " and ".join("×".join(map(str, array.shape)) for array in features.arrays)
    return (
        f"{OPTION}=auto: what the frozen part of the model makes of a record is computed once, "
        f"before the first step: {shapes} numbers for each, at most {in_words(most_bytes)} of this "
        f"machine's memory. It is {features.share:.0%} of the multiplications of a forward pass"
    )
