"""The mesh of a run: as it is asked for, or all devices for the records."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from dpjax.basics.option_checks import did_you_mean

AXES = ("data", "fsdp", "tensor")
# The axes that share the records of a microbatch.
ROW_AXES = ("data", "fsdp")
_EXAMPLE = "data=4,fsdp=2,tensor=1"
_PARTITIONABLE = "jax_threefry_partitionable"


class ChosenMesh(NamedTuple):
    """What a run computes on.

    Attributes:
        mesh: with the axes data, fsdp and tensor; None for a single device.
        notice: a sentence for whoever asked for the run; empty if there is nothing to say.
    """

    mesh: Mesh | None
    notice: str = ""


def parse_mesh(text: str, *, name: str = "mesh") -> dict[str, int]:
    """Reads the sizes of the axes of a mesh; those that are not named have size 1.

    Args:
        text: such as "data=4,fsdp=2"; axes are data, fsdp and tensor.
        name: of the argument, for messages.

    Returns:
        The size of every axis, in the order data, fsdp, tensor.

    Raises:
        ValueError: an axis is unknown or named twice, or a size is no positive whole number.

    Example:
        >>> parse_mesh("fsdp=8")
        {'data': 1, 'fsdp': 8, 'tensor': 1}
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, equals, size = (word.strip() for word in part.partition("="))
        if axis not in AXES:
            raise ValueError(
                f"{name} must name the axes {', '.join(AXES)}, as in {_EXAMPLE}, got {axis!r} in "
                f"{text!r}." + did_you_mean(axis, AXES)
            )
        if axis in sizes:
            raise ValueError(f"{name} must name an axis once, got {axis} twice in {text!r}")
        if not equals or not size.isdecimal() or int(size) < 1:
            raise ValueError(
                f"{name} must give every axis a whole number from 1, as in {_EXAMPLE}, got "
                f"{part.strip()!r}"
            )
        sizes[axis] = int(size)
    return {axis: sizes.get(axis, 1) for axis in AXES}


def choose_mesh(
    mesh: Mesh | str | None, microbatch_size: int, *, name: str = "mesh", size_name: str
) -> ChosenMesh:
    """Returns the mesh that is asked for; without one, all devices share the records.

    Args:
        mesh: what was asked for, such as "data=4,fsdp=2"; a mesh of some of the devices, whose axes
            are named data, fsdp or tensor; or None.
        microbatch_size: records processed at once, on all devices together.
        name: of the argument, for messages.
        size_name: of the microbatch size, for messages.

    Raises:
        TypeError: `mesh` is no mesh, string or None.
        ValueError: an axis is unknown, the sizes do not multiply to the number of devices, data
            times fsdp does not divide the microbatch size.
    """
    if mesh is None:
        return _all_for_data(microbatch_size, name, size_name)
    if isinstance(mesh, str):
        sizes = parse_mesh(mesh, name=name)
        devices = jax.devices()
        if math.prod(sizes.values()) != len(devices):
            raise ValueError(
                f"{name} must use every device, got {mesh!r} of {math.prod(sizes.values())} where "
                f"there are {len(devices)}. Say for instance data={len(devices)}"
            )
        made = jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * 3)
    elif isinstance(mesh, Mesh):
        made = _with_all_axes(mesh, name)
    else:
        raise TypeError(f"{name} must be a jax.sharding.Mesh or a string, got {mesh!r}")
    if made.size == 1 and made.devices.item() == jax.devices()[0]:
        return ChosenMesh(None)
    sharing = math.prod(made.shape[axis] for axis in ROW_AXES)
    if microbatch_size % sharing:
        raise ValueError(
            f"{size_name} must be a multiple of the {sharing} devices that share the records (data "
            f"× fsdp), got {microbatch_size}. Give {_next_multiple(microbatch_size, sharing)}"
        )
    return _checked(made)


def describe_mesh(mesh: Mesh | None) -> str:
    """Returns the mesh as it is asked for; "data=1,fsdp=1,tensor=1" for a single device."""
    sizes = {axis: 1 if mesh is None else mesh.shape[axis] for axis in AXES}
    return ",".join(f"{axis}={size}" for axis, size in sizes.items())


def _all_for_data(microbatch_size: int, name: str, size_name: str) -> ChosenMesh:
    number = jax.device_count()
    if number == 1:
        return ChosenMesh(None)
    if microbatch_size % number:
        return ChosenMesh(
            None,
            f"one of {number} devices is used: {size_name}={microbatch_size} is no multiple of "
            f"{number}. {size_name}={_next_multiple(microbatch_size, number)} would use all of "
            f"them; {name} says how",
        )
    made = jax.make_mesh((number, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)
    return _checked(made)


def _checked(mesh: Mesh) -> ChosenMesh:
    if not getattr(jax.config, _PARTITIONABLE):
        raise ValueError(
            "jax_threefry_partitionable must be True on several devices, got False: every device "
            "would draw the noise of all of them. Leave JAX's default"
        )
    return ChosenMesh(mesh, f"{mesh.size} devices: {describe_mesh(mesh)}")


def _with_all_axes(mesh: Mesh, name: str) -> Mesh:
    """The same devices with all three axes, in their order."""
    unknown = [axis for axis in mesh.axis_names if axis not in AXES]
    if unknown:
        raise ValueError(
            f"{name} must have axes among {', '.join(AXES)}, got {unknown[0]!r}. Make it with "
            "jax.make_mesh and these names"
        )
    present = [axis for axis in AXES if axis in mesh.axis_names]
    ordered = np.transpose(mesh.devices, [mesh.axis_names.index(axis) for axis in present])
    devices = ordered.reshape([mesh.shape.get(axis, 1) for axis in AXES])
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def _next_multiple(number: int, of: int) -> int:
    return -(-number // of) * of
