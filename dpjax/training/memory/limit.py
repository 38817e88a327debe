"""How much memory a step may use."""

from __future__ import annotations

import os
from pathlib import Path

import jax

# The rest is for what no program's analysis knows of: fragments, compiled code, the next batch.
_SHARE = 0.9
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def memory_limit(option: str = "training.microbatch_size") -> int:
    """Returns the bytes that a step may use: nine tenths of what the first device can have.

    Of an accelerator that is what JAX may allocate, without what it holds already; of a CPU the
    machine's physical memory, or the control group's limit where that is less.

    Args:
        option: what to give as a number where the device does not tell.

    Raises:
        ValueError: the device does not tell.
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return int(_SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    if device.platform == "cpu":
        return int(_SHARE * _memory_of_machine())
    raise ValueError(
        f"{device.device_kind} does not tell how much memory it has. Give {option} as a number."
    )


def _memory_of_machine() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_limit_in(path) for path in _CGROUP_LIMITS]
    return min(physical, *(physical if limit is None else limit for limit in limits))


def _limit_in(path: Path) -> int | None:
    """The number in a file of the kernel; None without one."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
