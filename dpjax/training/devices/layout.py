"""Which part of an array lies on which device, and what is gathered when it is used."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpjax.basics.typing import PyTree
from dpjax.privatize import change_where_used
from dpjax.training.devices.mesh import ROW_AXES

# (dotted path, shape) -> how the array is spread over the axes of the mesh.
Rule = Callable[[str, tuple[int, ...]], PartitionSpec]
# Vectors with fewer entries are cheaper held everywhere than gathered.
_SMALLEST_VECTOR = 2**16


def spread(
    shape: tuple[int, ...],
    sizes: Mapping[str, int],
    *,
    tensor_axis: int | None = None,
    first_axis: int = 0,
) -> PartitionSpec:
    """Spreads an array: one axis over tensor, the largest of the others that fits over fsdp.

    An axis fits if the number of devices divides it. Vectors of fewer than 65,536 entries, also
    those of stacked layers, stay whole, unless tensor splits them.

    Args:
        shape: of the array.
        sizes: of the axes of the mesh.
        tensor_axis: the axis that tensor splits, counted from the end: -1 is the last; None for
            none.
        first_axis: axes before this one are not spread, such as that of stacked layers.

    Example:
        >>> tuple(spread((512, 2048), {"data": 1, "fsdp": 4, "tensor": 2}, tensor_axis=-1))
        ('fsdp', 'tensor')
        >>> tuple(spread((30, 20), {"data": 1, "fsdp": 4, "tensor": 1}))
        (None, 'fsdp')
    """
    names: list[str | None] = [None] * len(shape)
    if (
        tensor_axis is not None
        and sizes["tensor"] > 1
        and len(shape) + tensor_axis >= first_axis
        and shape[tensor_axis] % sizes["tensor"] == 0
    ):
        names[tensor_axis] = "tensor"
    is_small = len(shape) - first_axis < 2 and math.prod(shape[first_axis:]) < _SMALLEST_VECTOR
    if sizes["fsdp"] > 1 and not is_small:
        free = [
            axis
            for axis in range(first_axis, len(shape))
            if names[axis] is None and shape[axis] and shape[axis] % sizes["fsdp"] == 0
        ]
        if free:
            names[max(free, key=lambda axis: shape[axis])] = "fsdp"
    while names and names[-1] is None:
        names.pop()
    return PartitionSpec(*names)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the arrays of a run lie: parameters by a rule, records over data and fsdp.

    Attributes:
        mesh: with the axes data, fsdp and tensor.
        rule: spreads a parameter, given its dotted path and its shape.
    """

    mesh: Mesh
    rule: Rule

    @classmethod
    def make(cls, mesh: Mesh, rule: Rule | None = None) -> Layout:
        """Makes a layout; without a rule every array is spread over fsdp by its shape."""
        sizes = dict(mesh.shape)
        return cls(mesh, (lambda path, shape: spread(shape, sizes)) if rule is None else rule)

    def sharding(self, path: str, shape: tuple[int, ...]) -> NamedSharding:
        """Returns the sharding of a parameter.

        Raises:
            ValueError: the rule names an axis that there is not, or one that does not divide.
        """
        spec, sizes = self.rule(path, shape), dict(self.mesh.shape)
        parts = [axes if isinstance(axes, tuple) else (axes,) for axes in spec]
        names = [axis for axes in parts for axis in axes if axis is not None]
        fits = len(parts) <= len(shape) and len(set(names)) == len(names) and {*names} <= {*sizes}
        if not fits or any(
            size % math.prod(sizes[axis] for axis in axes if axis is not None)
            for size, axes in zip(shape, parts, strict=False)
        ):
            raise ValueError(
                f"the rule must spread {path} of shape {shape} evenly over {sizes}, got {spec}"
            )
        return NamedSharding(self.mesh, spec)

    def shardings(self, params: PyTree) -> PyTree:
        """Returns the sharding of every parameter, in the structure of `params`."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self.sharding(_dotted(path), leaf.shape), params
        )

    def place(self, params: PyTree) -> PyTree:
        """Returns the parameters, each where it belongs; every process has the same ones."""
        where = self.shardings(params)
        if self._of_rows.is_fully_addressable:
            return jax.device_put(params, where)

        def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
            if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
                return jax.device_put(leaf, sharding)
            host = np.asarray(leaf)
            return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])

        return jax.tree.map(put, params, where)

    def place_rows(self, rows: PyTree) -> PyTree:
        """Returns a microbatch, arrays `(b, ...)`, shared out over data and fsdp.

        Where several processes share it, each has all rows.
        """
        if self._of_rows.is_fully_addressable:
            return jax.device_put(rows, self._of_rows)
        size = len(jax.tree.leaves(rows)[0])
        own = self.own_rows(size)
        return self.place_own_rows(jax.tree.map(lambda leaf: np.asarray(leaf)[own], rows), size)

    def abstract_rows(self, rows: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """Returns the shape of rows with where `place_rows` puts them."""
        return jax.ShapeDtypeStruct(rows.shape, rows.dtype, sharding=self._of_rows)

    def own_rows(self, size: int) -> np.ndarray:
        """Returns which rows of a microbatch of `size` this process needs, ascending, int64."""
        parts = self._of_rows.addressable_devices_indices_map((size,)).values()
        return np.unique(np.concatenate([np.arange(size)[part] for part in parts]))

    def place_own_rows(self, rows: PyTree, size: int) -> PyTree:
        """Returns the microbatch of `size` rows of which this process has those of `own_rows`."""

        def put(own: Any) -> jax.Array:
            shape = (size, *np.shape(own)[1:])
            return jax.make_array_from_process_local_data(self._of_rows, np.asarray(own), shape)

        return jax.tree.map(put, rows)

    @property
    def _of_rows(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(ROW_AXES))

    @property
    def devices_of_rows(self) -> int:
        """Among how many devices the rows of a microbatch are divided."""
        return math.prod(self.mesh.shape[axis] for axis in ROW_AXES)

    def divisible(self, number: int) -> int:
        """Returns the least number of rows from `number` that data and fsdp can share evenly."""
        return -(-number // self.devices_of_rows) * self.devices_of_rows

    def shardings_of_state(self, state: PyTree, params: PyTree) -> PyTree:
        """Returns where the optimizer's state lies: with the parameter that it is about.

        A part of the state is about a parameter if its path ends in that of the parameter and the
        shapes are equal. Others are spread by their shape.

        Args:
            state: arrays or their shapes.
            params: the parameters, arrays or their shapes.
        """
        of_params = {
            path: (leaf.shape, self.sharding(_dotted(path), leaf.shape))
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        }

        def find(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            for start in range(len(path) + 1):
                shape, sharding = of_params.get(path[start:], (None, None))
                if sharding is not None and shape == leaf.shape:
                    return sharding
            return NamedSharding(self.mesh, spread(leaf.shape, self.mesh.shape))

        return jax.tree_util.tree_map_with_path(find, state)

    def init_state(self, init: Callable[[PyTree], PyTree], params: PyTree) -> PyTree:
        """Returns `init(params)`, the optimizer's state, without an array of full size."""
        where = self.shardings_of_state(jax.eval_shape(init, params), params)
        return jax.jit(init, out_shardings=where)(params)

    def keep(self, params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """Returns parameters and optimizer state, kept where they lie; inside `jax.jit`."""
        where = self.shardings(params), self.shardings_of_state(state, params)
        return jax.lax.with_sharding_constraint((params, state), where)

    def gathering(
        self, function: Callable[..., PyTree], params_at: tuple[int, ...] = (0, 2)
    ) -> Callable[..., PyTree]:
        """Returns the same function, which gathers parameters where it uses them.

        Left to itself, the compiler spreads activations like the parameters and exchanges those.
        The backward pass gathers once more (fully sharded data parallelism: Zhao et al. 2023,
        "PyTorch FSDP", arXiv:2304.11277): else a device would hold all parameters in between.
        Parameters that a `jax.lax.scan` takes slice by slice, such as those of stacked layers, are
        gathered slice by slice inside the loop, unless fsdp spreads their first axis.

        Args:
            function: `(params, record, frozen) -> loss`, or another.
            params_at: which of its arguments are parameters.
        """
        if self.mesh.shape["fsdp"] == 1:
            return function

        def gathering(*args: PyTree) -> PyTree:
            gathers: list[_Gather | None] = []
            for index, arg in enumerate(args):
                leaves = jax.tree_util.tree_leaves_with_path(arg)
                gathers += [
                    self._gather(path, leaf) if index in params_at else None
                    for path, leaf in leaves
                ]
            return change_where_used(function, args, gathers)

        return gathering

    def _gather(self, path: tuple[Any, ...], leaf: jax.Array) -> _Gather | None:
        spec = self.sharding(_dotted(path), leaf.shape).spec
        kept = PartitionSpec(*(_without_fsdp(axes) for axes in spec))
        return None if kept == spec else _Gather(self.mesh, spec, kept)


@dataclasses.dataclass(frozen=True)
class _Gather:
    """Gathers an array that is spread, and keeps what it is spread over beside fsdp."""

    mesh: Mesh
    spread: PartitionSpec
    kept: PartitionSpec

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, self.kept))

    def of_slice(self) -> _Gather | None:
        if self.spread[0] is not None:
            return None
        return _Gather(self.mesh, PartitionSpec(*self.spread[1:]), PartitionSpec(*self.kept[1:]))


def _without_fsdp(axes: Any) -> Any:
    if isinstance(axes, tuple):
        return tuple(axis for axis in axes if axis != "fsdp") or None
    return None if axes == "fsdp" else axes


def _dotted(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
