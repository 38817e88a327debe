"""What a resumed run takes in the place of "auto": what it was started with."""

from __future__ import annotations

from typing import Any

from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.setup.automatic import microbatch_size, vocab_chunk


def resumed_auto(
    config: FinetuneConfig, stored: dict[str, Any]
) -> tuple[FinetuneConfig, tuple[str, ...]]:
    """Returns the configuration with what the interrupted run had in the place of auto.

    Args:
        config: what was asked for.
        stored: the identity of the interrupted run.
    """
    notices: tuple[str, ...] = ()
    size = stored["config"].get(microbatch_size.OPTION)
    if config.training.microbatch_size == "auto" and isinstance(size, int):
        config = microbatch_size.with_microbatch_size(config, size)
        notices += (
            f"{microbatch_size.OPTION}=auto: {size} records at once, as the run was started with",
        )
    chunk = stored["config"].get(vocab_chunk.OPTION, "auto")
    if config.compute.vocab_chunk == "auto" and chunk != "auto":
        config = vocab_chunk.with_vocab_chunk(config, chunk)
        notices += (f"{vocab_chunk.OPTION}=auto: {chunk}, as the run was started with",)
    return config, notices
