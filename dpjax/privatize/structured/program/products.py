"""How many multiplications the matrix products of an equation take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dpjax.privatize.devices.effects import inner_jaxprs, open_jaxpr
from dpjax.privatize.structured.program.jaxpr import Equation


def dot_size(params: Mapping[str, Any], left: Sequence[int], out: Sequence[int]) -> int:
    """Multiplications of a `dot_general`, from its parameters and two of its shapes."""
    (contracted, _), _ = params["dimension_numbers"]
    return math.prod(out) * math.prod(left[axis] for axis in contracted)


def count_products(equation: Equation) -> tuple[int, int]:
    """Returns how many matrix products and convolutions an equation has, and multiplications.

    Those inside loops count as often as the loop turns.
    """
    return _count(equation, equation.primitive, equation.inputs, equation.outputs)


def _count(
    equation: Any, name: str, inputs: Sequence[Any], outputs: Sequence[Any]
) -> tuple[int, int]:
    if name == "dot_general":
        return 1, dot_size(equation.params, inputs[0].shape, outputs[0].shape)
    if name == "conv_general_dilated":
        kernel, features = inputs[1].shape, equation.params["dimension_numbers"].rhs_spec[0]
        return 1, math.prod(outputs[0].shape) * math.prod(kernel) // max(1, kernel[features])
    times = equation.params["length"] if name == "scan" else 1
    inner = [
        _count(
            eqn,
            eqn.primitive.name,
            [var.aval for var in eqn.invars],
            [var.aval for var in eqn.outvars],
        )
        for body in inner_jaxprs(equation)
        for eqn in open_jaxpr(body)[0].eqns
    ]
    return times * sum(count for count, _ in inner), times * sum(size for _, size in inner)
