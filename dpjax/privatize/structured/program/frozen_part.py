"""Splits a loss into what no trained parameter enters, and the rest, by tracing it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.structured.program.jaxpr import (
    CALLS,
    Atom,
    Constant,
    Equation,
    Program,
    Value,
    depends_on,
    trace,
)
from dpjax.privatize.structured.program.products import count_products


class LossWithFrozen(Protocol):
    """A loss of one example that reads parameters which are not trained."""

    def __call__(self, params: PyTree, example: PyTree, frozen: PyTree, /) -> PyTree:
        """Returns the loss."""


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenPart:
    """What a loss makes of an example before anything trained enters, and how it goes on.

    Attributes:
        features: shapes of the values between both, of one example; empty if there is nothing
            that is worth being kept.
        reads: for each leaf of the example, whether the rest of the loss reads it too.
        share: of the multiplications of all matrix products in a forward pass, those before the
            features.

    Example:
        >>> def loss(params, example, frozen):
        ...     hidden = jnp.tanh(jnp.tanh(example @ frozen["lower"]) @ frozen["upper"])
        ...     return jnp.sum(hidden @ params)
        >>> frozen = {"lower": jnp.ones((3, 4)), "upper": jnp.ones((4, 5))}
        >>> params, example = jnp.ones(5), jnp.ones(3)
        >>> part = split_frozen_part(loss, params, example, frozen)
        >>> part.features, part.reads
        ((ShapeDtypeStruct(shape=(5,), dtype=float32),), (False,))
        >>> features = part.compute(example, frozen)
        >>> bool(part.finish(params, features, None, frozen) == loss(params, example, frozen))
        True
    """

    features: tuple[jax.ShapeDtypeStruct, ...]
    reads: tuple[bool, ...]
    share: float
    _program: Program
    _params: tuple[Value, ...]
    _example: tuple[Value, ...]
    _frozen: tuple[Value, ...]
    _values: tuple[Value, ...]
    _out_tree: Any

    def compute(self, example: PyTree, frozen: PyTree) -> tuple[Any, ...]:
        """Computes the features of one example; under any transformation."""
        known = dict(zip(self._example, jax.tree.leaves(example), strict=True))
        known |= zip(self._frozen, jax.tree.leaves(frozen), strict=True)
        return tuple(_evaluate(self._program, known, self._values))

    def finish(
        self, params: PyTree, features: Sequence[Any], example: PyTree, frozen: PyTree
    ) -> PyTree:
        """Computes what the loss returns, from features.

        Args:
            params: what is trained.
            features: what `compute` returned for the example.
            example: the example, with None for leaves that are not read any more.
            frozen: the other parameters.
        """
        read = [value for value, is_read in zip(self._example, self.reads, strict=True) if is_read]
        known = dict(zip(self._params, jax.tree.leaves(params), strict=True))
        known |= zip(read, jax.tree.leaves(example), strict=True)
        known |= zip(self._frozen, jax.tree.leaves(frozen), strict=True)
        known |= zip(self._values, features, strict=True)
        outputs = _evaluate(self._program, known, self._program.outputs)
        return jax.tree.unflatten(self._out_tree, outputs)


def split_frozen_part(
    loss: LossWithFrozen, params: PyTree, example: PyTree, frozen: PyTree
) -> FrozenPart:
    """Finds what of a loss can be computed once per example, because nothing in it is trained.

    Values between both parts that are cheap to compute again are no features: those that are at
    most one matrix product away from the example or from other features, such as attention masks,
    embeddings, or the frozen projection beside an adapter. What JAX runs as a whole (loops,
    rematerialisation, conditionals) is before the features or after them as a whole.

    Args:
        loss: of one example. Traced here; it must read nothing that changes from step to step but
            params.
        params: what is trained, arrays or shapes; so are the others.
        example: one example, without an axis of examples.
        frozen: the other parameters.

    Raises:
        UnreadableProgramError: the program of the loss cannot be taken apart.
        ValueError: it exchanges values over a named axis.
    """
    # Rematerialisation stays: inlined, it would be forgotten.
    program, out_shape = trace(loss, params, example, frozen, inlined=CALLS)
    sizes = [len(jax.tree.leaves(tree)) for tree in (params, example)]
    of_params = program.inputs[: sizes[0]]
    of_example = program.inputs[sizes[0] : sum(sizes)]
    trained = depends_on(program, of_params)
    fixed = depends_on(program, of_example) - trained
    values = _features(program, of_example, _boundary(program, trained, fixed))
    before = _needed(program, set(of_example), values)
    everything = _needed(program, set(), program.outputs)
    rest = _read(_needed(program, set(values), program.outputs), program.outputs)
    return FrozenPart(
        features=tuple(jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values),
        reads=tuple(value in rest for value in of_example),
        share=_multiplications(before) / max(1, _multiplications(everything)),
        _program=program,
        _params=of_params,
        _example=of_example,
        _frozen=program.inputs[sum(sizes) :],
        _values=values,
        _out_tree=jax.tree.structure(out_shape),
    )


def _boundary(program: Program, trained: set[Value], fixed: set[Value]) -> list[Value]:
    """What of the fixed values is read where something is trained, in order of computation."""
    inside = [
        equation
        for equation in _needed(program, set(), program.outputs)
        if any(value in trained for value in equation.outputs)
    ]
    read = _read(inside, program.outputs)
    return [
        value
        for equation in program.equations
        for value in equation.outputs
        if value in fixed and value in read
    ]


def _features(
    program: Program, of_example: Sequence[Value], boundary: Sequence[Value]
) -> tuple[Value, ...]:
    """Those values that are more than one matrix product away from the example and from others."""
    features: list[Value] = []
    for value in boundary:
        between = _needed(program, {*of_example, *features}, [value])
        if sum(count_products(equation)[0] for equation in between) > 1:
            features.append(value)
    return tuple(features)


def _needed(program: Program, known: set[Value], wanted: Iterable[Atom]) -> list[Equation]:
    """The equations that lead from what is known to what is wanted, in order."""
    missing = {atom for atom in wanted if isinstance(atom, Value)} - known
    equations = []
    for equation in reversed(program.equations):
        if any(value in missing for value in equation.outputs):
            equations.append(equation)
            missing |= {atom for atom in equation.inputs if isinstance(atom, Value)} - known
    return equations[::-1]


def _read(equations: Sequence[Equation], outputs: Iterable[Atom]) -> set[Atom]:
    return {atom for equation in equations for atom in equation.inputs} | set(outputs)


def _evaluate(program: Program, known: Mapping[Value, Any], wanted: Sequence[Atom]) -> list[Any]:
    values = dict(known)

    def lookup(atom: Atom) -> Any:
        return atom.value if isinstance(atom, Constant) else values[atom]

    for equation in _needed(program, set(known), wanted):
        outputs = equation.apply(*map(lookup, equation.inputs))
        for value, output in zip(equation.outputs, outputs, strict=True):
            # Of several outputs some may be features.
            values.setdefault(value, output)
    return [jnp.asarray(lookup(atom)) for atom in wanted]


def _multiplications(equations: Iterable[Equation]) -> int:
    return sum(count_products(equation)[1] for equation in equations)
