"""Changes what a function is given where it is used: inside loops, slice by slice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.extend.core as jex

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.effects import inner_jaxprs, open_jaxpr
from dpjax.privatize.structured.program.jaxpr import (
    CALLS,
    REMATERIALISED,
    UnreadableProgramError,
    applier,
    body_of,
    is_plain_call,
    loop_arity,
)

# They only cast or move numbers: done again in the backward pass, as the change is.
_CASTS = {"convert_element_type", "copy"}
_MOVES = _CASTS | {"transpose", "reshape", "squeeze"}


class Change(Protocol):
    """What happens to an array before it is used, such as being gathered from devices."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the array as it is used: of the same shape and dtype."""

    def of_slice(self) -> Change | None:
        """Returns the same for a slice `x[i]`; None if only whole arrays can be changed."""


def change_where_used(
    function: Callable[..., PyTree],
    args: tuple[PyTree, ...],
    changes: Sequence[Change | None],
) -> PyTree:
    """Computes `function(*args)` of changed arrays, each of which is changed as late as can be.

    What a `jax.lax.scan` takes slice by slice, as it is or cast, is changed slice by slice, inside
    the loop. What else is done to an array before a loop is done to the changed array. Where the
    function computes something again in its backward pass (`jax.checkpoint`), the change is done
    again with it. Elsewhere it is done again in the backward pass of each operation, if it is a
    sharding constraint: no changed array is kept for it. There are two exceptions, of which a
    changed array is kept: what every iteration of such a loop reads as a whole, and what other
    operations read that have rematerialisation inside.

    Args:
        function: is traced once.
        args: pytrees of arrays.
        changes: of each leaf of `args`, in order; None for a leaf that is used as it is.

    Returns:
        What the function returns.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    outputs = _evaluate(closed, jax.tree.leaves(args), changes, again=True)
    return jax.tree.unflatten(jax.tree.structure(shape), outputs)


@dataclasses.dataclass(frozen=True)
class _Moved:
    """A change, and a move of the changed array after it; a cast is one of each slice too."""

    change: Change
    move: Callable[..., Sequence[Any]]
    is_cast: bool

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.move(self.change(x))[0]

    def of_slice(self) -> Change | None:
        inner = self.change.of_slice() if self.is_cast else None
        return None if inner is None else _Moved(inner, self.move, True)


def _evaluate(
    closed: Any, values: Sequence[Any], changes: Sequence[Change | None], *, again: bool
) -> list[Any]:
    """The outputs of a jaxpr; `again`: if changes are done again in the backward pass of a use."""
    jaxpr, consts = open_jaxpr(closed)
    given = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))
    pending = {
        var: change for var, change in zip(jaxpr.invars, changes, strict=True) if change is not None
    }

    def read(var: Any) -> tuple[Any, Change | None]:
        if isinstance(var, jex.Literal):
            return var.val, None
        return given[var], pending.get(var)

    for eqn in jaxpr.eqns:
        inputs, of_inputs = zip(*map(read, eqn.invars), strict=True) if eqn.invars else ((), ())
        changed = [change for change in of_inputs if change is not None]
        name = eqn.primitive.name
        outputs: Sequence[Any]
        if not changed:
            outputs = applier(eqn)(*inputs)
        elif name in _MOVES and len(inputs) == 1:
            # Nothing is moved before it is needed.
            outputs = inputs
            pending[eqn.outvars[0]] = _Moved(changed[0], applier(eqn), name in _CASTS)
        elif name in CALLS and is_plain_call(eqn):
            outputs = _evaluate(body_of(eqn), inputs, of_inputs, again=again)
        elif name in REMATERIALISED:
            outputs = _run_rematerialised(eqn, inputs, of_inputs)
        elif name == "scan" and (of_slices := _changes_of_slices(eqn, of_inputs)):
            outputs = _run_loop(eqn, inputs, of_inputs, of_slices, again=again)
        else:
            # JAX rematerialises nothing that keeps state.
            once = bool(eqn.effects) or _rematerialises(eqn)
            outputs = _use(applier(eqn), inputs, of_inputs, again and not once)
        given |= zip(eqn.outvars, outputs, strict=True)
    return [_change(*read(var)) for var in jaxpr.outvars]


def _change(value: Any, change: Change | None) -> Any:
    return value if change is None else change(value)


def _use(
    apply: Callable[..., Sequence[Any]],
    inputs: Sequence[Any],
    changes: Sequence[Change | None],
    again: bool,
) -> Sequence[Any]:
    def use(*inputs: Any) -> Sequence[Any]:
        return apply(*map(_change, inputs, changes))

    return (jax.checkpoint(use, policy=_keeps) if again else use)(*inputs)


def _keeps(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in _MOVES and primitive.name != "sharding_constraint"


def _rematerialises(eqn: Any) -> bool:
    """Whether an equation has rematerialisation inside, which one around it would undo."""
    return any(
        inner.primitive.name in REMATERIALISED or _rematerialises(inner)
        for body in inner_jaxprs(eqn)
        for inner in open_jaxpr(body)[0].eqns
    )


def _run_rematerialised(
    eqn: Any, inputs: Sequence[Any], changes: Sequence[Change | None]
) -> Sequence[Any]:
    def body(*inputs: Any) -> list[Any]:
        return _evaluate(body_of(eqn), inputs, changes, again=False)

    options = {name: eqn.params[name] for name in ("policy", "prevent_cse")}
    return jax.checkpoint(body, **options)(*inputs)


def _changes_of_slices(eqn: Any, changes: Sequence[Change | None]) -> list[Change | None] | None:
    """How the slices that a loop takes are changed; None if no array can be changed in slices."""
    try:
        first = sum(loop_arity(eqn.params))
    except UnreadableProgramError:
        # A loop of a JAX that is not known: what it takes is changed before it.
        return None
    of_slices = [None if change is None else change.of_slice() for change in changes[first:]]
    return of_slices if any(change is not None for change in of_slices) else None


def _run_loop(
    eqn: Any,
    inputs: Sequence[Any],
    changes: Sequence[Change | None],
    of_slices: list[Change | None],
    *,
    again: bool,
) -> Sequence[Any]:
    num_consts, num_carry = loop_arity(eqn.params)
    first = num_consts + num_carry
    before: list[Change | None] = [*[None] * first, *of_slices]
    inputs = [
        value if later is not None else _change(value, change)
        for value, change, later in zip(inputs, changes, before, strict=True)
    ]

    def body(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        given = [*inputs[:num_consts], *carry, *slices]
        outputs = _evaluate(eqn.params["jaxpr"], given, before, again=again)
        return outputs[:num_carry], outputs[num_carry:]

    carry, stacked = jax.lax.scan(
        body,
        inputs[num_consts:first],
        inputs[first:],
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
        unroll=eqn.params.get("unroll", 1),
    )
    return [*carry, *stacked]
