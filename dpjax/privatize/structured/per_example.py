"""Evaluates the gradient program for a whole batch: what all examples share is computed once."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.varying import axes_of, vary
from dpjax.privatize.structured.gradient import GradientProgram
from dpjax.privatize.structured.program.evaluate import Request, make_plan, run, values_request
from dpjax.privatize.structured.program.jaxpr import Equation, Value, depends_on


class PerExample:
    """The values of a batch known so far: shared ones as they are, others with a batch axis.

    The cotangent is 1: factors are applied to the terms, not sent through the backward pass, which
    a custom rule may have made non-linear.
    """

    def __init__(
        self,
        gradient: GradientProgram,
        params: PyTree,
        batch: PyTree,
        requests: Sequence[Request],
    ):
        self._gradient = gradient
        self._values = list(gradient.example)
        self._arrays = [jnp.asarray(leaf) for leaf in jax.tree.leaves(batch)]
        self._batch_size = self._arrays[0].shape[0]
        inputs = dict(zip(gradient.params, jax.tree.leaves(params), strict=True))
        unit = jnp.ones((), gradient.cotangent.dtype)
        cotangent = {gradient.cotangent: vary(unit, axes_of((params, self._arrays)))}
        self._varying = depends_on(gradient.program, [*gradient.example, gradient.cotangent])
        self._backward = depends_on(gradient.program, [gradient.cotangent])
        boundary = self._read_of(lambda value: value not in self._varying, requests, self._all)
        [shared] = run(
            gradient.program,
            inputs,
            [values_request(boundary)],
            keeps=lambda equation: equation.prints and not _reads(equation, self._varying),
        )
        self._shared = dict(zip(boundary, shared, strict=True)) | cotangent

    def evaluate(self, requests: Sequence[Request]) -> list[PyTree]:
        """The results for every example, each leaf with a leading batch axis."""

        def evaluate_one(arrays: list[Any], _: jax.Array) -> list[PyTree]:
            return run(self._gradient.program, self._known(arrays), requests, keeps=self._all)

        # The second argument is there for a program that reads nothing of the example.
        return jax.vmap(evaluate_one)(self._arrays, jnp.zeros(self._batch_size))

    def run_forward(self, outputs: Request, later: Sequence[Request]) -> list[PyTree]:
        """The result of `outputs`, keeping what the backward pass of `later` reads.

        From here on nothing of the forward pass is computed again.
        """
        read = self._read_of(lambda value: value not in self._backward, later, self._backwards)
        kept = [value for value in read if value not in self._shared]
        wanted = [outputs, values_request(kept)]
        same: list[Any] = []

        def run_one(arrays: list[Any], row: jax.Array) -> tuple[PyTree, list[Any]]:
            known = self._known(arrays)
            result, values = run(self._gradient.program, known, wanted, keeps=self._forwards)
            same[:] = _same_for_all(values, row)
            return result, [x for x, shared in zip(values, same, strict=True) if shared is None]

        result, arrays = jax.vmap(run_one)(self._arrays, jnp.zeros(self._batch_size))
        pairs = list(zip(kept, same, strict=True))
        # A loop's counter, say: a conditional on it would become both of its branches.
        self._shared |= {value: shared for value, shared in pairs if shared is not None}
        self._values, self._arrays = [value for value, shared in pairs if shared is None], arrays
        return result

    def evaluate_norms(self, requests: Sequence[Request], losses: jax.Array) -> list[PyTree]:
        """The results for every example of requests to the backward pass."""

        def go_back(loss: jax.Array, arrays: list[Any]) -> list[PyTree]:
            # True of every loss, also one that is not a number.
            always = ~(jnp.minimum(loss, 0) > 0)
            return self._go_back(always, arrays, requests, self._backwards)

        return jax.vmap(go_back)(losses, self._arrays)

    def evaluate_sums(
        self, requests: Callable[[jax.Array], Sequence[Request]], factors: jax.Array
    ) -> list[jax.Array]:
        """The results of requests that sum over the batch, made for one example's factors."""

        def sum_one(factor: jax.Array, arrays: list[Any]) -> list[jax.Array]:
            # What the backward pass prints, it has printed.
            keeps_none = lambda _: False  # noqa: E731
            return self._go_back(jnp.all(factor >= 0), arrays, requests(factor), keeps_none)

        return jax.vmap(sum_one, out_axes=None)(factors, self._arrays)

    def _go_back(
        self,
        always: jax.Array,
        arrays: list[Any],
        requests: Sequence[Request],
        keeps: Callable[[Equation], bool],
    ) -> list[PyTree]:
        """The backward pass of one example, where `always` is true but the compiler cannot know it.

        If the cotangent were known to be 1, two backward passes from the same residuals would be
        found to compute the same, and everything in between would be kept. And in a residual
        network the cotangent of a layer, a sum over all layers above, would be computed again for
        each of its readers: code, and the time to compile it, that grow with the square of the
        depth. Barriers should prevent both, but are removed too early on CPU.
        """
        cotangent = self._gradient.cotangent
        unit = jnp.where(always, 1.0, 0.0).astype(cotangent.dtype)
        known = self._known(arrays) | {cotangent: unit}
        return run(self._gradient.program, known, requests, _divided_by_one(always), keeps=keeps)

    def _known(self, arrays: list[Any]) -> dict[Value, Any]:
        return self._shared | dict(zip(self._values, arrays, strict=True))

    def _all(self, equation: Equation) -> bool:
        """Whether an equation prints something that depends on the example."""
        return equation.prints and _reads(equation, self._varying)

    def _forwards(self, equation: Equation) -> bool:
        return self._all(equation) and not _reads(equation, self._backward)

    def _backwards(self, equation: Equation) -> bool:
        return equation.prints and _reads(equation, self._backward)

    def _read_of(
        self,
        is_known: Callable[[Value], bool],
        requests: Sequence[Request],
        keeps: Callable[[Equation], bool],
    ) -> list[Value]:
        """The known values that are read when nothing before them is computed."""
        known = _Where(is_known)
        plan = make_plan(self._gradient.program, known, requests, keeps)
        return [atom for atom in plan.read if isinstance(atom, Value) and atom in known]


def _divided_by_one(always: jax.Array) -> Callable[[Any], Any]:
    """The identity, to the last bit, as a division that the compiler of CPUs cannot remove."""
    divisor = jax.lax.platform_dependent(
        always,
        cpu=lambda true: jnp.where(true, 1.0, 2.0),
        default=lambda true: jnp.where(true, 1.0, 1.0),
    )

    def divided(x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        # A divisor for each entry: a common one would become a factor.
        return x / jnp.where(x >= 0, divisor, 1.0).astype(x.dtype)

    return divided


def _reads(equation: Equation, values: Container[Value]) -> bool:
    return any(atom in values for atom in equation.inputs)


def _same_for_all(values: list[Any], row: jax.Array) -> list[Any | None]:
    """Inside `vmap`: the values that are the same for all examples, None for the others.

    Only `vmap` itself knows which they are, and it tells the batching rule of a function. The rule
    is given those values as they are outside, so that they may be used there.
    """
    shared_values: list[Any | None] = [None] * len(values)

    @jax.custom_batching.custom_vmap
    def ask(row: jax.Array, *values: Any) -> jax.Array:
        return row

    @ask.def_vmap
    def answer(
        axis_size: int, in_batched: list[Any], row: jax.Array, *values: Any
    ) -> tuple[Any, ...]:
        for index, (value, batched) in enumerate(zip(values, in_batched[1:], strict=True)):
            shared_values[index] = None if batched else value
        return row, True

    ask(row, *values)
    return shared_values


class _Where:
    def __init__(self, is_known: Callable[[Value], bool]):
        self._is_known = is_known

    def __contains__(self, value: object) -> bool:
        return isinstance(value, Value) and self._is_known(value)
