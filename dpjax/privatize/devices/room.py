"""Room for examples: how many of them one device has in memory at once, and how much it has."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import NamedSharding

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.device_memory import memory_of_default_device


@dataclasses.dataclass(frozen=True)
class Room:
    """What the rows of a clipped sum share a device with.

    Attributes:
        num_vmapped: how many sums `jax.vmap` computes at once.
        num_devices: among how many devices the rows are divided.
        device_memory: bytes that one device can use; None for those of the default device.
    """

    num_vmapped: int = 1
    num_devices: int = 1
    device_memory: int | None = None

    def examples_at_once(self, num_rows: int) -> int:
        """Counts the examples that one device has in memory, of sums over `num_rows` each.

        Rows that cannot be divided evenly may all lie on each device.
        """
        divided = num_rows % self.num_devices == 0
        return self.num_vmapped * (num_rows // self.num_devices if divided else num_rows)

    def known_device_memory(self) -> int:
        """Returns the bytes that one device can use."""
        if self.device_memory is not None:
            return self.device_memory
        return memory_of_default_device()


def check_device_memory(device_memory: Any, name: str = "device_memory") -> None:
    """Raises TypeError or ValueError unless it is None or a positive whole number of bytes."""
    if device_memory is None:
        return
    if not isinstance(device_memory, int) or isinstance(device_memory, bool):
        raise TypeError(f"{name} must be a whole number of bytes or None, got {device_memory!r}")
    if device_memory < 1:
        raise ValueError(f"{name} must be at least 1 byte, got {device_memory}")


def devices_of_rows(batch: PyTree) -> int:
    """Counts the devices among which the rows of a batch are divided, as far as its arrays tell.

    Inside `jax.jit` only an array with explicit axes tells: 1 for all others.

    Args:
        batch: arrays or shapes with a leading axis of rows.
    """
    return min((_devices_of(leaf) for leaf in jax.tree.leaves(batch)), default=1)


def _devices_of(leaf: Any) -> int:
    if isinstance(leaf, jax.core.Tracer):
        leaf = jax.typeof(leaf)
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not len(sharding.spec):
        return 1
    axes = sharding.spec[0]
    names = axes if isinstance(axes, tuple) else (axes,)
    return math.prod(sharding.mesh.shape.get(name, 1) for name in names)
