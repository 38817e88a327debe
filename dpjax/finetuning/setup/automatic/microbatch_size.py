"""training.microbatch_size=auto: the number that a run gets."""

from __future__ import annotations

import dataclasses

from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.setup.plan import Plan
from dpjax.finetuning.setup.steps import abstract_split, step_programs
from dpjax.training import (
    StepMemory,
    StepPrograms,
    from_lead,
    in_lead,
    in_words,
    largest_microbatch,
    memory_limit,
)

# The last microbatch of a step is filled up with rows that do not count: on average half of one.
_LARGEST_SHARE = 4
OPTION = "training.microbatch_size"


def chosen_memory(plan: Plan, programs: StepPrograms, limit: int) -> StepMemory:
    """Returns the memory of the largest microbatch that fits and is not wasteful.

    It holds at most a quarter of the expected batch size: the last one of a step is filled up.

    Args:
        plan: what was asked for.
        programs: of the run's steps.
        limit: bytes that a step may use.

    Raises:
        ValueError: a single record does not fit.
    """
    return largest_microbatch(programs.memory, limit, largest_wanted(plan))


def largest_wanted(plan: Plan) -> int:
    """Returns the records of the largest microbatch that is not wasteful."""
    largest = max(1, int(plan.noise.batch_size) // _LARGEST_SHARE)
    if plan.samples_owners:
        largest *= plan.config.privacy.records_per_owner
    return largest


def with_microbatch_size(config: FinetuneConfig, size: int) -> FinetuneConfig:
    """Returns the configuration with a number of records."""
    training = dataclasses.replace(config.training, microbatch_size=size)
    return dataclasses.replace(config, training=training)


def resolve_auto(plan: Plan) -> tuple[Plan, tuple[str, ...]]:
    """Returns a run that knows its microbatch size, and what there is to say about the choice.

    Nothing is read of the weights, and nothing is run. Of several processes, process 0 chooses.

    Raises:
        ValueError: a single record does not fit, or the device does not tell.
    """
    if plan.config.training.microbatch_size != "auto":
        return plan, ()
    choice = in_lead(lambda: _choose(plan), takes_long=True)
    size, notice = from_lead(lambda: choice or (1, ""))
    return dataclasses.replace(plan, config=with_microbatch_size(plan.config, size)), (notice,)


def _choose(plan: Plan) -> tuple[int, str]:
    """The number of records at once, and a sentence on it."""
    limit = memory_limit(given=plan.config.compute.device_memory)
    memory = chosen_memory(plan, step_programs(plan, abstract_split(plan)), limit)
    size = memory.microbatch_size
    depends_on_length = plan.features is None or plan.features.has_tokens
    texts = f" for texts of {plan.config.training.max_length} tokens" if depends_on_length else ""
    return size, (
        f"{OPTION}=auto: {size} records at once. The compiled step needs {in_words(memory.peak)}"
        f"{texts}; {in_words(limit)} may be used"
    )
