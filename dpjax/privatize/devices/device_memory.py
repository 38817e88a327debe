"""How many bytes a device can use: what `auto` and the microbatch size are decided by."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

ASSUMED_DEVICE_MEMORY = 8 * 2**30
"""Bytes taken for a device that does not tell and is of no known kind: rather too few."""

# JAX gives its settings no types.
_DEFAULT_DEVICE = "jax_default_device"
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# What the TPU compiler grants a program, as it says when one is too large: GiB of one device. For
# topologies that are compiled for: there a chip of v3, v4 and TPU7x is two devices.
_GIB_OF_TPU = {
    "TPU v3": 15.48,
    "TPU v4": 15.25,
    "TPU v5 lite": 15.75,
    "TPU v5e": 15.75,
    "TPU v5": 95.74,
    "TPU v5p": 95.74,
    "TPU v6 lite": 31.25,
    "TPU v6e": 31.25,
    "TPU7x": 94.75,
}
# What a card is sold with, in units of 10⁹ bytes: the driver shows a little more.
_GB_OF_GPU = {
    "Tesla T4": 15,
    "Tesla V100-SXM2-16GB": 16,
    "Tesla V100-SXM2-32GB": 32,
    "NVIDIA L4": 23,
    "NVIDIA A10G": 23,
    "NVIDIA L40S": 46,
    "NVIDIA A100-SXM4-40GB": 40,
    "NVIDIA A100-PCIE-40GB": 40,
    "NVIDIA A100-SXM4-80GB": 80,
    "NVIDIA A100 80GB PCIe": 80,
    "NVIDIA H100 PCIe": 80,
    "NVIDIA H100 80GB HBM3": 80,
    "NVIDIA GH200 480GB": 95,
    "NVIDIA H200": 141,
    "NVIDIA B200": 180,
    "NVIDIA GeForce RTX 3090": 24,
    "NVIDIA GeForce RTX 4090": 24,
}
_MEMORY_OF_KINDS = {kind: int(gib * 2**30) for kind, gib in _GIB_OF_TPU.items()} | {
    kind: gb * 10**9 for kind, gb in _GB_OF_GPU.items()
}


def device_memory(device: jax.Device) -> int | None:
    """Returns the bytes that a device can use; None where it does not tell and is of unknown kind.

    What JAX may allocate, where the device says so. Otherwise, as for the devices of a TPU topology
    that only programs are compiled for, what is known of its kind. A CPU has the machine's physical
    memory, or the control group's limit where that is less; several CPU devices share it.

    Args:
        device: of any backend.

    Example:
        >>> device_memory(jax.devices("cpu")[0]) > 10**8
        True
    """
    stats = memory_stats(device)
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if device.platform == "cpu":
        return host_memory() // len(device.client.local_devices())
    return _MEMORY_OF_KINDS.get(device.device_kind)


def memory_stats(device: jax.Device) -> dict[str, Any]:
    """Returns what a device tells of its memory; empty where it tells nothing.

    Example:
        >>> memory_stats(jax.devices("cpu")[0])
        {}
    """
    try:
        return device.memory_stats() or {}
    except jax.errors.JaxRuntimeError as error:
        # A device of a topology, or of another process: there is nothing that can be asked.
        if "addressable" not in str(error):
            raise
        return {}


def memory_of_default_device() -> int:
    """Returns the bytes of the device that JAX computes on unless told otherwise.

    `ASSUMED_DEVICE_MEMORY` where they are not known.

    Example:
        >>> memory_of_default_device() == device_memory(jax.devices()[0])
        True
    """
    device = getattr(jax.config, _DEFAULT_DEVICE)
    if device is None or isinstance(device, str):
        device = jax.local_devices(backend=device)[0]
    known = device_memory(device)
    return ASSUMED_DEVICE_MEMORY if known is None else known


def host_memory() -> int:
    """Returns the bytes of this machine: its physical memory, or the control group's limit if less.

    Example:
        >>> host_memory() > 10**8
        True
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_limit_in(path) for path in _CGROUP_LIMITS]
    return min(physical, *(physical if limit is None else limit for limit in limits))


def _limit_in(path: Path) -> int | None:
    """The number in a file of the kernel; None without one."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
