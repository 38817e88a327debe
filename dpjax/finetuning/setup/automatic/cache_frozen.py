"""compute.cache_frozen=auto: whether the frozen part is computed once, before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from dpjax.basics.lora_config import ALL_LINEAR
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.setup.identity import COMPUTED_ONCE, HEAD_COMPUTED_ONCE
from dpjax.finetuning.setup.model.features import find_features
from dpjax.finetuning.setup.plan import Plan
from dpjax.finetuning.setup.steps import abstract_split, drops_inputs
from dpjax.finetuning.tasks.features import Features
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
    if plan.first_step:
        head_stage, _ = plan.stages
        features, said = _resolve(head_stage, plan, stored.get(HEAD_COMPUTED_ONCE))
        said = tuple(
            f"the first {plan.first_step} steps, of the head alone: {line}" for line in said
        )
        plan = dataclasses.replace(plan, choices=(*plan.choices, *said), head_features=features)
    features, said = _resolve(plan, plan, stored.get(COMPUTED_ONCE))
    return dataclasses.replace(plan, choices=(*plan.choices, *said), features=features)


def _resolve(
    stage: Plan, run: Plan, was_computed: bool | None
) -> tuple[Features | None, tuple[str, ...]]:
    """What is computed once before the steps of a stage, and a sentence on it."""
    is_likely = _may_be_cached(stage.config, stage.task.compares_with_base)
    features = _find(stage, run) if is_likely else None
    if features is None:
        return None, ()
    why_not = _why_not(stage, features, was_computed)
    if why_not is None:
        return features, (_sentence(features, _most_bytes(stage, features)),)
    return None, (
        f"{OPTION}=auto: steps compute the frozen part of the model again, because {why_not}",
    )


def _why_not(plan: Plan, features: Features, was_computed: bool | None) -> str | None:
    """Why nothing is computed once; None if it is. Everything that decides is public."""
    if jax.process_count() > 1:
        return "several processes train"
    if was_computed is not None:
        return None if was_computed else "the run was started so"
    num_records, num_read = _num_records(plan), _num_read(plan)
    if num_read <= num_records:
        return f"all steps together read about {num_read:.0f} records, and there are {num_records}"
    needed, limit = _most_bytes(plan, features), host_memory() // _SHARE_OF_MEMORY
    if needed > limit:
        return (
            f"its results would take up to {in_words(needed)}, and 1/{_SHARE_OF_MEMORY} of this "
            f"machine's memory is {in_words(limit)}"
        )
    return None


def _may_be_cached(config: FinetuneConfig, compares_with_base: bool) -> bool:
    """Whether it is worth a look: elsewhere something is trained in the lowest layer."""
    if config.compute.cache_frozen == "never" or drops_inputs(config):
        return False
    if compares_with_base:
        return True
    if config.tuning == "lora":
        lora = config.lora
        if lora.layers_to_transform is not None or lora.exclude_modules:
            return True
        return lora.target_modules != ALL_LINEAR
    return config.tuning in ("head", "last_layers")


def _find(stage: Plan, run: Plan) -> Features | None:
    """What can be computed once; None if that would hardly make steps faster."""
    model = abstract_split(run)
    try:
        features = find_features(stage, model if stage is run else model.training_only(run.head))
    except UnreadableProgramError:
        return None
    if features is None:
        return None
    # The backward pass of what is trained takes twice as many as its forward pass.
    step = features.share + 3 * (1 - features.share)
    return features if features.share >= _LEAST_GAIN * step else None


def _num_records(plan: Plan) -> int:
    return len(plan.train) + plan.config.audit.num_canaries


def _num_read(plan: Plan) -> float:
    """How many records the steps of a run read together, about, each as often as it is drawn."""
    per_unit = plan.config.privacy.records_per_owner if plan.samples_owners else 1
    return (plan.num_steps - plan.first_step) * plan.noise.batch_size * per_unit


def _most_bytes(plan: Plan, features: Features) -> int:
    """Bytes if all records were of the greatest length: public, whatever the records are."""
    return _num_records(plan) * features.bytes_of_longest


def _sentence(features: Features, most_bytes: int) -> str:
    shapes = " and ".join("×".join(map(str, array.shape)) for array in features.arrays)
    return (
        f"{OPTION}=auto: what the frozen part of the model makes of a record is computed once, "
        f"before the first step: {shapes} numbers for each record, at most {in_words(most_bytes)} "
        "of this machine's memory. That saves each step "
        f"{features.share:.0%} of the multiplications of a forward pass"
    )
