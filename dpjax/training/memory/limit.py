"""How much memory a step may use."""

from __future__ import annotations

import jax

from dpjax.privatize import device_memory, memory_stats

# The rest is for what no program's analysis knows of: fragments, compiled code, the next batch.
_SHARE = 0.9


def memory_limit(option: str = "training.microbatch_size", given: int | None = None) -> int:
    """Returns the bytes that a step may use: nine tenths of what the first device can have.

    Of an accelerator that tells, without what it holds already.

    Args:
        option: what to give as a number where the device does not tell.
        given: bytes that the first device can use, where somebody has said so.

    Raises:
        ValueError: it is not known.
    """
    device = jax.local_devices()[0]
    known = device_memory(device) if given is None else given
    if known is None:
        raise ValueError(
            f"{device.device_kind} does not tell how much memory it has. Give {option} as a number."
        )
    return int(_SHARE * (known - memory_stats(device).get("bytes_in_use", 0)))
