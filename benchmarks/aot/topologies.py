"""TPUs that are not there: their devices, for the compiler, and what their makers say of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from typing import Any

import numpy as np

from dpjax.basics.option_checks import did_you_mean


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a chip can do at most.

    Attributes:
        name: as in a topology.
        flops: bfloat16 operations a second.
        memory_bandwidth: bytes a second of its memory.
        link_bandwidth: bytes a second over all links to other chips, both directions together.
        num_dimensions: of a topology.
    """

    name: str
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    num_dimensions: int


# Google Cloud's pages "TPU v5e", "TPU v5p" and "TPU v6e" (docs.cloud.google.com/tpu/docs), the
# tables of a chip: peak compute in bfloat16, memory bandwidth, bidirectional inter-chip bandwidth.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, 819e9, 400e9, 2),
        Chip("v5p", 459e12, 2765e9, 1200e9, 3),
        Chip("v6e", 918e12, 1640e9, 800e9, 2),
    )
}


def prepare_environment() -> None:
    """Sets what JAX and libtpu read when they start, so that they compile and look for no chip.

    Raises:
        ImportError: libtpu is not installed.
    """
    if not has_libtpu():
        raise ImportError('libtpu is not installed. Install it with pip install -e ".[tpu]"')
    os.environ.update(
        JAX_PLATFORMS="cpu",
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE="v5litepod-4",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_LOG_DIR="disabled",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )
    import jax

    # Where something has imported JAX before.
    jax.config.update("jax_platforms", "cpu")


def has_libtpu() -> bool:
    """Whether the compiler for TPUs is installed."""
    return importlib.util.find_spec("libtpu") is not None


def parse_topology(text: str) -> tuple[Chip, int]:
    """Reads the kind of chip and how many there are.

    Raises:
        ValueError: the chip is unknown, or the topology has another number of dimensions.

    Example:
        >>> chip, number = parse_topology("v5e:4x4")
        >>> chip.name, number
        ('v5e', 16)
    """
    kind, _, sizes = text.partition(":")
    if kind not in CHIPS:
        raise ValueError(
            f"topology must begin with one of {', '.join(CHIPS)}, as in v5e:4x4, got {text!r}."
            + did_you_mean(kind, CHIPS)
        )
    chip, parts = CHIPS[kind], sizes.split("x")
    if len(parts) != chip.num_dimensions or not all(part.isdecimal() for part in parts):
        example = "x".join("2" * chip.num_dimensions)
        raise ValueError(
            f"topology of {kind} must have {chip.num_dimensions} sizes, as in {kind}:{example}, "
            f"got {text!r}"
        )
    return chip, math.prod(int(part) for part in parts)


def check_fits(sizes: dict[str, int], topology: str) -> None:
    """Raises ValueError unless a mesh has as many devices as the topology.

    Example:
        >>> check_fits({"data": 2, "fsdp": 2, "tensor": 1}, "v5e:2x2")
    """
    _, number = parse_topology(topology)
    if math.prod(sizes.values()) != number:
        asked = ",".join(f"{axis}={size}" for axis, size in sizes.items())
        raise ValueError(
            f"mesh must use every device of {topology}, got {asked} of "
            f"{math.prod(sizes.values())} where there are {number}. Say for instance data={number}"
        )


def make_mesh(topology: str, sizes: dict[str, int]) -> Any:
    """Makes the mesh of a topology's devices, with the axes that a run has.

    Neighbours in the topology are neighbours in the mesh where JAX finds such an order.

    Raises:
        ValueError: the mesh does not fit, or the compiler knows no such topology.
    """
    check_fits(sizes, topology)
    from jax.experimental import mesh_utils, topologies
    from jax.sharding import AxisType, Mesh

    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:
        # Of many types; what is wrong with the name is in the message.
        raise ValueError(
            f"topology {topology!r} is none that the compiler knows ({_first_line(error)}). Try "
            "v5e:2x2, v5e:4x4, v5p:2x2x1 or v6e:2x2"
        ) from error
    devices = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices=list(described.devices), allow_split_physical_axes=True
    )
    return Mesh(np.asarray(devices), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
