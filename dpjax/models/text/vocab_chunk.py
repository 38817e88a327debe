"""How many tokens of the vocabulary a loss should hold the logits of at once."""

from __future__ import annotations

import math

LOGITS_SHARE = 32
"""All logits are held at once where they are at most one part in so many of a device's memory.

The step holds them several times: for GPT-2 small on TPU v6e, `two_backwards` needed 2.8 times the
bytes of all float32 logits more than with chunks of 4,096, and the ordinary step 0.8 times.
"""

# Measured with this many; a fraction of it keeps matrix products large.
_LARGEST_CHUNK = 4096
_SMALLEST_CHUNK = 256
_FLOAT32 = 4


def bytes_of_logits(num_tokens: int, vocab_size: int) -> int:
    """Returns the bytes of float32 logits.

    Example:
        >>> bytes_of_logits(32 * 255, 50257)
        1640388480
    """
    return num_tokens * vocab_size * _FLOAT32


def choose_vocab_chunk(num_tokens: int, vocab_size: int, device_memory: int) -> int | None:
    """Chooses how many tokens of the vocabulary `causal_lm_loss` should hold at once.

    All of them where their logits take at most 1/32 of the device's memory. Otherwise 4,096, or the
    half, quarter and so on of it whose logits do, but no fewer than 256.

    Args:
        num_tokens: of a microbatch, on one device.
        vocab_size: V.
        device_memory: bytes that the device can use.

    Returns:
        c for `vocab_chunk=c`; None for all at once.

    Raises:
        ValueError: a number is below 1.

    Example:
        GPT-2 on TPU v6e, 32 texts of 256 tokens on each chip; the same with 2 texts.

        >>> choose_vocab_chunk(32 * 255, 50257, device_memory=33_554_432_000)
        4096
        >>> choose_vocab_chunk(2 * 255, 50257, device_memory=33_554_432_000) is None
        True
    """
    given = {"num_tokens": num_tokens, "vocab_size": vocab_size, "device_memory": device_memory}
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    budget = device_memory // LOGITS_SHARE
    if bytes_of_logits(num_tokens, vocab_size) <= budget:
        return None
    fitting = max(_SMALLEST_CHUNK, budget // bytes_of_logits(num_tokens, 1))
    chunk = min(_LARGEST_CHUNK, 2 ** int(math.log2(fitting)))
    return chunk if chunk < vocab_size else None
