"""The gradient of one example as a program, and where each parameter's part of it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.varying import abstract, axes_of
from dpjax.privatize.structured.program.jaxpr import Atom, Program, Value, trace
from dpjax.privatize.structured.terms.roots import Terms, find_terms


@dataclasses.dataclass(frozen=True, eq=False)
class GradientProgram:
    """`(params, example, cotangent) -> (loss, aux, gradients)` of one example, flattened.

    Attributes:
        params, example: the program's inputs, in the order of the leaves.
        cotangent: its last input, a scalar of the loss's dtype.
        loss: its first output.
        aux: what the loss returned beside it.
        aux_tree: the structure of that.
        terms: for each parameter leaf, what its gradient is the sum of.
        params_tree: the structure of the parameters.
    """

    program: Program
    params: tuple[Value, ...]
    example: tuple[Value, ...]
    cotangent: Value
    loss: Atom
    aux: tuple[Atom, ...]
    aux_tree: Any
    terms: tuple[Terms, ...]
    params_tree: Any


class _OtherCotangentError(Exception):
    """The loss is of another type than the cotangent that it was traced with."""

    def __init__(self, expected: jax.ShapeDtypeStruct):
        self.expected = expected


def gradient_program(
    loss_fn: Callable[..., Any], has_aux: bool, params: PyTree, example: PyTree
) -> GradientProgram:
    """Traces the gradient of `loss_fn(params, example)`; `example` is abstract.

    Raises:
        UnreadableProgramError: the program cannot be taken apart.
        ValueError: it exchanges values over a named axis.
    """

    def with_aux(params: PyTree, example: PyTree) -> tuple[jax.Array, PyTree]:
        return loss_fn(params, example) if has_aux else (loss_fn(params, example), None)

    def gradient(params: PyTree, example: PyTree, cotangent: jax.Array) -> tuple[Any, ...]:
        loss, backward, aux = jax.vjp(lambda p: with_aux(p, example), params, has_aux=True)
        expected = abstract((), loss)
        if (expected.dtype, axes_of(loss)) != (cotangent.dtype, axes_of(cotangent)):
            raise _OtherCotangentError(expected)
        return loss, aux, backward(cotangent)[0]

    # Tracing takes long, and most losses are of this type: none is traced to find it out.
    cotangent = jax.ShapeDtypeStruct((), jnp.float32)
    try:
        program, (_, aux, _) = trace(gradient, params, example, cotangent)
    except _OtherCotangentError as other:
        program, (_, aux, _) = trace(gradient, params, example, other.expected)
    num_params, num_aux = len(jax.tree.leaves(params)), len(jax.tree.leaves(aux))
    gradients = program.outputs[1 + num_aux :]
    return GradientProgram(
        program=program,
        params=program.inputs[:num_params],
        example=program.inputs[num_params:-1],
        cotangent=program.inputs[-1],
        loss=program.outputs[0],
        aux=program.outputs[1 : 1 + num_aux],
        aux_tree=jax.tree.structure(aux),
        terms=tuple(find_terms(program, gradient) for gradient in gradients),
        params_tree=jax.tree.structure(params),
    )
