"""compute.vocab_chunk=auto: the number that a run gets."""

from __future__ import annotations

import dataclasses

from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.setup.automatic.microbatch_size import largest_wanted
from dpjax.finetuning.setup.plan import Plan
from dpjax.models import LOGITS_SHARE, bytes_of_logits, choose_vocab_chunk, read_config
from dpjax.training import in_words

OPTION = "compute.vocab_chunk"


def resolve_vocab_chunk(plan: Plan, num_devices: int = 1) -> Plan:
    """Returns a run that knows how many tokens' logits are held at once, and says why.

    A microbatch size that is yet to be found is taken as the largest that may be.

    Args:
        plan: what was asked for.
        num_devices: among how many devices the records of a microbatch are divided.
    """
    config = plan.config
    most_logits = plan.task.most_logits(config.training.max_length)
    if not most_logits or config.compute.vocab_chunk != "auto":
        return plan
    size = config.records_at_once
    records = largest_wanted(plan) if isinstance(size, str) else -(-size // num_devices)
    num_tokens = records * most_logits
    vocab_size = read_config(plan.checkpoint).vocab_size
    chunk = choose_vocab_chunk(num_tokens, vocab_size, plan.device_memory)
    config = with_vocab_chunk(config, chunk)
    return dataclasses.replace(
        plan,
        config=config,
        task=plan.task.with_config(config),
        choices=(*plan.choices, _sentence(chunk, num_tokens, vocab_size, plan.device_memory)),
    )


def with_vocab_chunk(config: FinetuneConfig, chunk: int | None) -> FinetuneConfig:
    """Returns the configuration with a number of tokens; None for all."""
    compute = dataclasses.replace(config.compute, vocab_chunk=chunk)
    return dataclasses.replace(config, compute=compute)


def _sentence(chunk: int | None, num_tokens: int, vocab_size: int, device_memory: int) -> str:
    held = "all" if chunk is None else f"{chunk}"
    return (
        f"{OPTION}=auto: logits of {held} tokens of the vocabulary at once. Those of all "
        f"{vocab_size} are {in_words(bytes_of_logits(num_tokens, vocab_size))} for a microbatch on "
        f"a device, and 1/{LOGITS_SHARE} of its memory is {in_words(device_memory // LOGITS_SHARE)}"
    )
