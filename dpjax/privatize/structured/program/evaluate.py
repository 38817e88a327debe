"""Evaluates a program and takes things out of the inside of its loops.

What is wanted is said by `Request`s. Equations that no request needs are not evaluated: above all
not those that would form per-example gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.varying import axes_of, example_types, vary
from dpjax.privatize.structured.program.jaxpr import Atom, Constant, Equation, Loop, Program, Value


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """Something to compute from the values of a program.

    Attributes:
        atoms: values of the program itself.
        loops: requests to the bodies of its loops; what they yield arrives stacked over iterations,
            or added up where `adds_up`.
        finish: `(values of atoms, results of loops) -> result`.
        adds_up: if this is a request to a loop's body.
        outside: for a request to a loop's body, values of the program around it that are made
            before the loop. They follow those of `atoms`, and the number of the iteration follows
            them; None for neither.
    """

    atoms: tuple[Atom, ...]
    finish: Callable[[list[Any], list[PyTree]], PyTree]
    loops: tuple[tuple[Equation, Request], ...] = ()
    adds_up: bool = False
    outside: tuple[Atom, ...] | None = None


def values_request(atoms: Sequence[Atom]) -> Request:
    """The values as they are, as a list."""
    return Request(tuple(atoms), lambda values, _: values)


def _prints(equation: Equation) -> bool:
    return equation.prints


def _keeps_none(equation: Equation) -> bool:
    return False


def run(
    program: Program,
    known: Mapping[Value, Any],
    requests: Sequence[Request],
    written: Callable[[Any], Any] = lambda x: x,
    outside: Sequence[Sequence[Any]] | None = None,
    keeps: Callable[[Equation], bool] = _keeps_none,
) -> list[PyTree]:
    """The results of the requests, from the values that are known (inputs, or any others).

    `written` is applied to what a request reads and the program computes more from, except to the
    first of such values: the identity, in a form that makes the compiler write a value to memory.
    `outside` has what each request reads of the program around this one. `keeps` says which
    equations are evaluated though no request needs them.
    """
    plan = make_plan(program, known, requests, keeps)
    crossings = _later_crossings(plan, requests)
    values = dict(known)
    inner_results: dict[int, PyTree] = {}

    def lookup(atom: Atom) -> Any:
        return atom.value if isinstance(atom, Constant) else values[atom]

    for equation in plan.equations:
        inputs = [lookup(atom) if atom in plan.read else None for atom in equation.inputs]
        if equation.loop is None:
            outputs = equation.apply(*inputs)
        else:
            loop_plan = plan.loops[equation]
            around = [
                None if inner.outside is None else [lookup(atom) for atom in inner.outside]
                for inner in loop_plan.requests
            ]
            outputs, results = _run_loop(equation.loop, inputs, loop_plan, around)
            inner_results |= zip(map(id, loop_plan.requests), results, strict=True)
        values |= {
            value: written(x) if value in crossings else x
            for value, x in zip(equation.outputs, outputs, strict=True)
        }
    if outside is None:
        outside = [()] * len(requests)
    return [
        request.finish(
            [*(lookup(atom) for atom in request.atoms), *extra],
            [inner_results[id(inner)] for _, inner in request.loops],
        )
        for request, extra in zip(requests, outside, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class LoopPlan:
    """Which parts of a loop are evaluated."""

    requests: list[Request]
    inputs: list[int]
    carry: list[int]
    stacked: list[int]
    keeps: Callable[[Equation], bool]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to evaluate.

    Attributes:
        equations: in order.
        loops: how each loop among them is evaluated.
        read: the atoms that they and the requests read; a dict as a set with an order.
    """

    equations: list[Equation]
    loops: dict[Equation, LoopPlan]
    read: dict[Atom, None]


def _later_crossings(plan: Plan, requests: Sequence[Request]) -> set[Atom]:
    """What requests and the program both read and that is computed from another such value.

    The first one ends no chain. It is also the largest, as a rule: the cotangent of the logits.
    """
    wanted = {atom for request in requests for atom in request.atoms}
    crossings = wanted & {atom for equation in plan.equations for atom in equation.inputs}
    later: set[Atom] = set()
    for equation in plan.equations:
        if any(atom in crossings or atom in later for atom in equation.inputs):
            later.update(equation.outputs)
    return crossings & later


def make_plan(
    program: Program,
    known: Container[Value],
    requests: Sequence[Request],
    keeps: Callable[[Equation], bool] = _keeps_none,
) -> Plan:
    """Works backwards from the requests, and the equations to keep, to what is known."""
    inside: dict[Equation, list[Request]] = {}
    for request in requests:
        for equation, inner in request.loops:
            inside.setdefault(equation, []).append(inner)
    read: dict[Atom, None] = {atom: None for request in requests for atom in request.atoms}
    equations, loops = [], {}
    for equation in reversed(program.equations):
        wanted = [value in read and value not in known for value in equation.outputs]
        of_body = inside.get(equation, [])
        kept = keeps(equation)
        if not (any(wanted) or of_body or kept):
            continue
        if equation.loop is None:
            read |= dict.fromkeys(equation.inputs)
        else:
            inside_keeps = _prints if kept else _keeps_none
            loops[equation] = _plan_loop(equation.loop, wanted, of_body, inside_keeps)
            read |= {equation.inputs[index]: None for index in loops[equation].inputs}
            read |= {atom: None for request in of_body for atom in request.outside or ()}
        equations.append(equation)
    return Plan(equations[::-1], loops, read)


def _plan_loop(
    loop: Loop,
    wanted: Sequence[bool],
    requests: list[Request],
    keeps: Callable[[Equation], bool],
) -> LoopPlan:
    """A carried value is kept if anything kept reads it; that may take a few rounds."""
    stacked = [i for i in range(loop.num_carry, len(wanted)) if wanted[i]]
    carry = [i for i in range(loop.num_carry) if wanted[i]]
    while True:
        outputs = [loop.body.outputs[i] for i in carry + stacked]
        plan = make_plan(loop.body, set(), [*requests, values_request(outputs)], keeps)
        inputs = [i for i, value in enumerate(loop.body.inputs) if value in plan.read]
        needed = {
            i - loop.num_consts
            for i in inputs
            if loop.num_consts <= i < loop.num_consts + loop.num_carry
        }
        if needed <= set(carry):
            break
        carry = sorted(needed | set(carry))
    first = loop.num_consts
    inputs = sorted({*inputs, *(first + i for i in carry)})
    return LoopPlan(requests, inputs, carry, stacked, keeps)


def _run_loop(
    loop: Loop, inputs: Sequence[Any], plan: LoopPlan, outside: Sequence[list[Any] | None]
) -> tuple[list[Any], list[PyTree]]:
    """The loop's outputs (None where nobody needs them) and the results of the requests."""
    first_carry, first_slice = loop.num_consts, loop.num_consts + loop.num_carry
    body_inputs = loop.body.inputs
    consts = {body_inputs[i]: inputs[i] for i in plan.inputs if i < first_carry}
    slice_indices = [i for i in plan.inputs if i >= first_slice]
    outputs_request = values_request([loop.body.outputs[i] for i in plan.carry + plan.stacked])

    def body(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any], list[PyTree]]:
        *slices, iteration = slices
        known = dict(consts)
        known |= {body_inputs[first_carry + i]: x for i, x in zip(plan.carry, carry, strict=True)}
        known |= {body_inputs[i]: x for i, x in zip(slice_indices, slices, strict=True)}
        extra = [[], *([] if values is None else [*values, iteration] for values in outside)]
        requests = [outputs_request, *plan.requests]
        outputs, *results = run(loop.body, known, requests, outside=extra, keeps=plan.keeps)
        return outputs[: len(plan.carry)], outputs[len(plan.carry) :], results

    carry = [_array(inputs[first_carry + i]) for i in plan.carry]
    slices = [_array(inputs[i]) for i in slice_indices]
    slices.append(jnp.arange(loop.length, dtype=jnp.int32))
    adds_up = [request.adds_up for request in plan.requests]
    sums = _zeros_of_sums(body, carry, slices, adds_up)

    def step(state: tuple[Any, ...], slices: list[Any]) -> tuple[Any, ...]:
        carry, sums = state
        carry, stacked, results = body(carry, slices)
        new = [result for result, added in zip(results, adds_up, strict=True) if added]
        rest = [result for result, added in zip(results, adds_up, strict=True) if not added]
        return (carry, jax.tree.map(jnp.add, sums, new)), (stacked, rest)

    stacked: list[Any]
    rest: list[PyTree]
    (carry, sums), (stacked, rest) = jax.lax.scan(
        step,
        (carry, sums),
        slices,
        length=loop.length,
        reverse=loop.reverse,
        unroll=loop.unroll,
    )
    outputs: list[Any] = [None] * len(loop.body.outputs)
    for index, value in zip(plan.carry + plan.stacked, [*carry, *stacked], strict=True):
        outputs[index] = value
    added_up, others = iter(sums), iter(rest)
    return outputs, [next(added_up) if added else next(others) for added in adds_up]


def _zeros_of_sums(
    body: Callable[..., Any], carry: list[Any], slices: list[Any], adds_up: Sequence[bool]
) -> list[PyTree]:
    if not any(adds_up):
        return []
    slice_types = example_types(slices)
    _, _, results = jax.eval_shape(body, carry, slice_types)
    return [
        jax.tree.map(lambda x: vary(jnp.zeros(x.shape, x.dtype), axes_of(x)), result)
        for result, added in zip(results, adds_up, strict=True)
        if added
    ]


def _array(x: Any) -> Any:
    return x if isinstance(x, jax.Array) else jnp.asarray(x)
