"""What devices can do at most."""

from __future__ import annotations

import jax

from benchmarks.aot.topologies import CHIPS

# Dense bfloat16 operations per second, by what the device's kind begins with; the makers' numbers.
_PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v6": CHIPS["v6e"].flops,
}


def peak_flops(kind: str) -> float | None:
    """Returns the operations per second of one device; None of a kind that is not known.

    Args:
        kind: as `jax.Device.device_kind`.
    """
    return next((peak for start, peak in _PEAK_FLOPS.items() if kind.startswith(start)), None)


def peak_bytes() -> int | None:
    """Returns the most bytes that were in use on the first device; None where it does not count."""
    stats = jax.devices()[0].memory_stats()
    return None if stats is None else stats.get("peak_bytes_in_use")
