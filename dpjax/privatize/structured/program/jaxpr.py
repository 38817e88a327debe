"""A traced function as plain data: the one module that knows how JAX lays out its jaxprs.

JAX 0.10 and 0.11 differ in the parameters of `scan`, in what a closed jaxpr is, and in how an
equation is bound again. Everything else in this package works on `Program`, in which calls are
inlined, loops are explicit, and an equation can be applied without knowing its parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.effects import (
    open_jaxpr,
    prints,
    trace_gradient,
    unknown_effect,
)

CALLS = frozenset(("jit", "pjit", "closed_call", "core_call"))
REMATERIALISED = frozenset(("remat", "remat2", "checkpoint"))
_INLINED_CALLS = CALLS | REMATERIALISED
_BARRIER = "optimization_barrier"
_BODY_PARAMS = ("jaxpr", "call_jaxpr")


class UnreadableProgramError(Exception):
    """A program that cannot be taken apart.

    JAX writes it in a way that is not known here, or it keeps state.
    """


class Value:
    """The result of an equation, or an input: compared by identity."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: Sequence[int], dtype: Any):
        self.shape = tuple(shape)
        self.dtype = dtype

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A literal, or an array that the traced function closed over."""

    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """As of a `Value`."""
        return np.shape(self.value)

    @property
    def dtype(self) -> Any:
        """As of a `Value`."""
        return jnp.result_type(self.value)


Atom = Value | Constant


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """The body of a `scan`: its inputs are constants, carry, slices; its outputs carry, slices."""

    body: Program
    num_consts: int
    num_carry: int
    length: int
    reverse: bool
    unroll: int


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """One primitive: `apply(*inputs)` returns the list of outputs, under any transformation."""

    primitive: str
    inputs: tuple[Atom, ...]
    outputs: tuple[Value, ...]
    params: Mapping[str, Any]
    apply: Callable[..., Sequence[Any]]
    prints: bool = False
    loop: Loop | None = None


def loop_of(equation: Equation) -> Loop:
    """The loop that an equation is, where it is known to be one."""
    assert equation.loop is not None
    return equation.loop


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Equations in an order in which they can be evaluated."""

    inputs: tuple[Value, ...]
    outputs: tuple[Atom, ...]
    equations: tuple[Equation, ...]

    @functools.cached_property
    def makers(self) -> Mapping[Atom, Equation]:
        """The equation that each value comes out of; inputs come out of none."""
        return {value: equation for equation in self.equations for value in equation.outputs}

    def through_barriers(self, atom: Atom) -> Atom:
        """What went into the barriers of rematerialisation that `atom` comes out of."""
        while (equation := self.makers.get(atom)) and equation.primitive == _BARRIER:
            atom = equation.inputs[equation.outputs.index(atom)]
        return atom

    @functools.cached_property
    def without_barriers(self) -> Program:
        """The program whose equations read what went into barriers instead.

        A barrier makes every value that goes through it wait for all the others.
        """
        return Program(
            self.inputs,
            tuple(map(self.through_barriers, self.outputs)),
            tuple(
                dataclasses.replace(
                    equation, inputs=tuple(map(self.through_barriers, equation.inputs))
                )
                for equation in self.equations
                if equation.primitive != _BARRIER
            ),
        )


def trace(
    function: Callable[..., PyTree], *args: PyTree, inlined: Collection[str] = _INLINED_CALLS
) -> tuple[Program, PyTree]:
    """Traces `function(*args)`; args may be abstract.

    Args:
        function: of pytrees of arrays.
        args: pytrees of arrays or shapes.
        inlined: names of the calls that are replaced by their equations, outside of loops.

    Returns:
        The program of the flat function, and the output as a pytree of shapes.

    Raises:
        UnreadableProgramError: the program cannot be read.
        ValueError: it exchanges values over a named axis.
    """
    closed, out_shape = trace_gradient(function, *args, return_shape=True)
    effect = unknown_effect(closed)
    if effect is not None:
        raise UnreadableProgramError(f"{effect}, whose order matters")
    return read(closed, inlined), out_shape


def read(closed: Any, inlined: Collection[str] = _INLINED_CALLS) -> Program:
    """A (closed) jaxpr as a program, with calls inlined."""
    reader = _Reader(inlined)
    inputs = open_jaxpr(closed)[0].invars
    values = tuple(_new_value(var) for var in inputs)
    outputs = reader.add(closed, values)
    return Program(values, outputs, tuple(reader.equations))


def _new_value(var: Any) -> Value:
    return Value(var.aval.shape, var.aval.dtype)


class _Reader:
    def __init__(self, inlined: Collection[str]) -> None:
        self.equations: list[Equation] = []
        self._inlined = inlined

    def add(self, closed: Any, inputs: Sequence[Atom]) -> tuple[Atom, ...]:
        """Appends the equations of a jaxpr applied to `inputs`; returns its outputs."""
        jaxpr, consts = open_jaxpr(closed)
        atoms: dict[Any, Atom] = dict(zip(jaxpr.invars, inputs, strict=True))
        atoms |= {var: Constant(value) for var, value in zip(jaxpr.constvars, consts, strict=True)}

        def lookup(var: Any) -> Atom:
            return Constant(var.val) if isinstance(var, jex.Literal) else atoms[var]

        for eqn in jaxpr.eqns:
            operands = tuple(lookup(var) for var in eqn.invars)
            atoms |= zip(eqn.outvars, self._add_equation(eqn, operands), strict=True)
        return tuple(lookup(var) for var in jaxpr.outvars)

    def _add_equation(self, eqn: Any, operands: tuple[Atom, ...]) -> tuple[Atom, ...]:
        name = eqn.primitive.name
        if name in self._inlined and is_plain_call(eqn):
            if eqn.params.get("prevent_cse") and eqn.params.get("differentiated"):
                operands = self._barrier(operands)
            return self.add(body_of(eqn), operands)
        outputs = tuple(_new_value(var) for var in eqn.outvars)
        self.equations.append(
            Equation(
                name,
                operands,
                outputs,
                eqn.params,
                applier(eqn),
                prints(eqn),
                _read_loop(eqn) if name == "scan" else None,
            )
        )
        return outputs

    def _barrier(self, operands: tuple[Atom, ...]) -> tuple[Atom, ...]:
        """Rematerialisation's barrier: what comes after it is not merged with the first pass."""
        inside = [atom for atom in operands if isinstance(atom, Value)]
        if not inside:
            return operands
        outputs = {atom: Value(atom.shape, atom.dtype) for atom in inside}
        unique = tuple(outputs)
        self.equations.append(
            Equation(
                _BARRIER,
                unique,
                tuple(outputs.values()),
                {},
                lambda *args: jax.lax.optimization_barrier(args),
            )
        )
        return tuple(outputs[atom] if isinstance(atom, Value) else atom for atom in operands)


def body_of(eqn: Any) -> Any:
    """The jaxpr that a call runs."""
    for name in _BODY_PARAMS:
        if name in eqn.params:
            return eqn.params[name]
    raise UnreadableProgramError(
        f"the call {eqn.primitive.name} has parameters {sorted(eqn.params)}"
    )


def is_plain_call(eqn: Any) -> bool:
    """A call that asks for no placement of its own; one that does stays as it is."""
    placements = [
        item
        for name in ("in_shardings", "out_shardings", "in_layouts", "out_layouts")
        for item in eqn.params.get(name, ())
    ]
    return all(item is None or type(item).__name__ == "UnspecifiedValue" for item in placements)


def applier(eqn: Any) -> Callable[..., Sequence[Any]]:
    """A function of an equation's inputs, literals among them, that returns its outputs."""
    variables = [var for var in eqn.invars if not isinstance(var, jex.Literal)]
    unique = list(dict.fromkeys(variables))
    names = tuple(f"input{i}" for i in range(len(unique)))
    results = tuple(f"output{i}" for i in range(len(eqn.outvars)))
    info = jex.DebugInfo("dpjax", eqn.primitive.name, names, results)
    jaxpr = jex.Jaxpr((), unique, list(eqn.outvars), [eqn], eqn.effects, info)
    run = jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, ()))
    first = [variables.index(var) for var in unique]
    literal = [isinstance(var, jex.Literal) for var in eqn.invars]

    def apply(*args: Any) -> Sequence[Any]:
        given = [arg for arg, skip in zip(args, literal, strict=True) if not skip]
        return run(*[given[index] for index in first])

    return apply


def _read_loop(eqn: Any) -> Loop:
    params = eqn.params
    num_consts, num_carry = loop_arity(params)
    body = read(params["jaxpr"])
    return Loop(
        body, num_consts, num_carry, params["length"], params["reverse"], params.get("unroll", 1)
    )


def loop_arity(params: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers of constants and of carried values of a scan."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    if "ft_in" not in params:
        raise UnreadableProgramError(f"scan has parameters {sorted(params)}")
    groups = [len(group) for group in params["ft_in"].unpack()]
    if len(groups) != 3 or sum(groups) != len(open_jaxpr(params["jaxpr"])[0].invars):
        raise UnreadableProgramError(f"scan has inputs grouped as {params['ft_in']}")
    return groups[0], groups[1]


def depends_on(program: Program, seeds: Iterable[Value]) -> set[Value]:
    """All values that are computed from `seeds`, loops taken as a whole; seeds included."""
    reached = set(seeds)
    for equation in program.equations:
        if any(atom in reached for atom in equation.inputs):
            reached.update(equation.outputs)
    return reached


def needed_for(program: Program, wanted: Iterable[Atom]) -> list[Equation]:
    """The equations that `wanted` is computed from, in order, and those that print."""
    needed = {atom for atom in wanted if isinstance(atom, Value)}
    kept = []
    for equation in reversed(program.equations):
        if equation.prints or any(value in needed for value in equation.outputs):
            kept.append(equation)
            needed.update(atom for atom in equation.inputs if isinstance(atom, Value))
    return kept[::-1]


def scalar_constant(atom: Atom) -> float | None:
    """The value of a concrete scalar constant, else None."""
    if isinstance(atom, Constant) and np.ndim(atom.value) == 0:
        if isinstance(atom.value, jax.core.Tracer):
            return None
        return float(atom.value)
    return None
