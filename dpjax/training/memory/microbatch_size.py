"""The largest microbatch that fits, found by compiling and not by running out of memory."""

from __future__ import annotations

import math
from collections.abc import Callable

from dpjax.training.memory.step_memory import StepMemory
from dpjax.training.memory.words import in_words

_ADVICE = (
    "Lower training.max_length, set compute.rematerialise, or train fewer parameters (lora.rank, "
    "tuning)."
)


def largest_microbatch(
    memory_of: Callable[[int], StepMemory],
    limit: int,
    largest: int,
    *,
    option: str = "training.microbatch_size",
    advice: str = _ADVICE,
) -> StepMemory:
    """Finds the largest power of two of records whose step fits, by compiling few candidates.

    The memory of a step is about affine in the size: a line through two programs predicts the next
    candidate, and what is chosen has been compiled. Where a strategy changes with the size the line
    is wrong, and the search goes on with the nearest programs.

    Args:
        memory_of: compiles the step for a size.
        limit: bytes that a step may use.
        largest: the largest size that is wanted, at least 1.
        option: the name of what is "auto".
        advice: what to do where a single record does not fit.

    Returns:
        The memory of the size that was chosen.

    Raises:
        ValueError: a single record does not fit.

    Example:
        >>> def memory_of(size):
        ...     return StepMemory(0, 100, 0, 0, 0, 10 * size, 0, microbatch_size=size)
        >>> largest_microbatch(memory_of, 300, largest=256).microbatch_size
        16
    """
    too_large = memory_of(2 ** int(math.log2(largest)))
    if too_large.peak <= limit:
        return too_large
    fits = memory_of(1) if too_large.microbatch_size > 1 else too_large
    if fits.peak > limit:
        raise ValueError(
            f"{option}=auto finds no size that fits: one record at a time needs"
            f" {in_words(fits.peak)}, and {in_words(limit)} may be used. {in_words(fits.held)} of"
            f" it are parameters, their sums and the optimizer's state. {advice}"
        )
    while too_large.microbatch_size > 2 * fits.microbatch_size:
        predicted = _predicted(fits, too_large, limit)
        if predicted <= fits.microbatch_size:
            break
        candidate = memory_of(min(predicted, too_large.microbatch_size // 2))
        if candidate.peak <= limit:
            fits = candidate
        else:
            too_large = candidate
    return fits


def _predicted(fits: StepMemory, too_large: StepMemory, limit: int) -> int:
    """The largest power of two below `limit` on the line through both."""
    rows = too_large.microbatch_size - fits.microbatch_size
    slope = (too_large.peak - fits.peak) / rows
    return int(2 ** int(math.log2(fits.microbatch_size + (limit - fits.peak) / slope)))
