"""What a traced program does beside computing: it communicates, prints, or keeps state.

A gradient that communicates over a named axis is not the gradient of one example, so no strategy
may clip it. A program that keeps state means what it does only in its order, so it is not taken
apart. Printing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as jex

# Known by name: JAX has no public classes for them.
_AXIS_EFFECT = "NamedAxisEffect"
_PRINTING_EFFECTS = {"DebugEffect", "OrderedDebugEffect"}
# They name axes and exchange nothing: a position on an axis, and changes of an array's type.
_LOCAL_PRIMITIVES = {"axis_index", "pvary", "pcast", "reduced_vary_cast"}


def open_jaxpr(closed: Any) -> tuple[Any, tuple[Any, ...]]:
    """The jaxpr and its constants, whether or not there is a class that holds both."""
    return getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())


def inner_jaxprs(eqn: Any) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation."""
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (jex.Jaxpr, jex.ClosedJaxpr)):
                yield item


def prints(eqn: Any) -> bool:
    """Whether an equation prints, or calls a function of the user's for its effect."""
    return any(type(effect).__name__ in _PRINTING_EFFECTS for effect in eqn.effects)


def trace_gradient(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`jax.make_jaxpr` of a function that holds the gradient of one example.

    Raises:
        ValueError: the function exchanges values over a named axis.
    """
    try:
        traced = jax.make_jaxpr(function, **kwargs)(*args)
    except NameError as error:
        if "unbound axis name" not in str(error):
            raise
        raise ValueError(
            f"loss_fn uses a named axis that does not exist where it is called ({error}). It is "
            "called for one example alone: statistics over a batch would mix examples, and there "
            "would be no gradient of one example to clip"
        ) from error
    check_communication(traced[0] if kwargs.get("return_shape") else traced)
    return traced


def check_communication(closed: Any) -> None:
    """Raises ValueError if the gradient of one example exchanges values over a named axis."""
    for name, axes in _communication(closed):
        raise ValueError(
            f"the gradient of one example exchanges values over the axis {_quoted(axes)} "
            f"({name}), so it depends on other examples or other devices, and clipping it bounds "
            "nothing. Let loss_fn compute the loss of one example from its arguments alone; add up "
            "the clipped sums of the devices afterwards, with jax.lax.psum(result.grads, axis)"
        )


def unknown_effect(closed: Any) -> str | None:
    """An effect whose order or number matters, in words; None if there is none."""
    jaxpr, _ = open_jaxpr(closed)
    for eqn in jaxpr.eqns:
        for effect in eqn.effects:
            kind = type(effect).__name__
            if kind != _AXIS_EFFECT and kind not in _PRINTING_EFFECTS:
                return f"{eqn.primitive.name} has the effect {kind}"
        for inner in inner_jaxprs(eqn):
            if (inner_effect := unknown_effect(inner)) is not None:
                return inner_effect
    return None


def _communication(closed: Any) -> Iterator[tuple[str, list[str]]]:
    """The primitives that exchange values over axes bound outside, with those axes."""
    jaxpr, _ = open_jaxpr(closed)
    for eqn in jaxpr.eqns:
        name, axes = eqn.primitive.name, _axes(eqn)
        if name in _LOCAL_PRIMITIVES:
            continue
        inner = list(inner_jaxprs(eqn))
        if axes and not inner:
            yield name, axes
        for program in inner:
            for inner_name, inner_axes in _communication(program):
                # A mesh that the loss opens itself binds its own axes; only its effects get out.
                outside = (
                    inner_axes
                    if name != "shard_map"
                    else [axis for axis in inner_axes if axis in axes]
                )
                if outside:
                    yield inner_name, outside


def _axes(eqn: Any) -> list[str]:
    """The named axes of an equation; not every collective has an effect for them."""
    named = [effect.name for effect in eqn.effects if type(effect).__name__ == _AXIS_EFFECT]
    for key in ("axes", "axis_name"):
        value = eqn.params.get(key, ())
        items = value if isinstance(value, (tuple, list)) else (value,)
        named += [item for item in items if isinstance(item, str)]
    return list(dict.fromkeys(named))


def _quoted(axes: list[str]) -> str:
    return ", ".join(repr(axis) for axis in axes)
