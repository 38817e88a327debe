"""Evaluates the gradient program for a whole batch: what all examples share is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.privatize.structured.evaluate import Request, make_plan, run, values_request
from dpjax.privatize.structured.gradient import GradientProgram
from dpjax.privatize.structured.program import Value, depends_on

PyTree = Any


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
        cotangent = {gradient.cotangent: jnp.ones((), gradient.cotangent.dtype)}
        varying = depends_on(gradient.program, [*gradient.example, gradient.cotangent])
        boundary = self._read_of(lambda value: value not in varying, requests)
        shared = run(gradient.program, inputs, [values_request(boundary)])[0]
        self._shared = dict(zip(boundary, shared, strict=True)) | cotangent

    def evaluate(self, requests: Sequence[Request]) -> list[PyTree]:
        """The results for every example, each leaf with a leading batch axis."""

        def of_one(arrays: list[Any], _: jax.Array) -> list[PyTree]:
            return run(self._gradient.program, self._known(arrays), requests)

        # The second argument is there for a program that reads nothing of the example.
        return jax.vmap(of_one)(self._arrays, jnp.zeros(self._batch_size))

    def run_forward(self, outputs: Request, later: Sequence[Request]) -> list[PyTree]:
        """The result of `outputs`, keeping what the backward pass of `later` reads.

        From here on nothing of the forward pass is computed again.
        """
        backward = depends_on(self._gradient.program, [self._gradient.cotangent])
        read = self._read_of(lambda value: value not in backward, later)
        kept = [value for value in read if value not in self._shared]
        result, arrays = self.evaluate([outputs, values_request(kept)])
        self._values, self._arrays = kept, arrays
        return result

    def evaluate_norms(self, requests: Sequence[Request], losses: jax.Array) -> list[PyTree]:
        """The results for every example of requests to the backward pass."""

        def of_one(loss: jax.Array, arrays: list[Any]) -> list[PyTree]:
            # True of every loss, also one that is not a number.
            return self._go_back(~(jnp.minimum(loss, 0) > 0), arrays, requests)

        return jax.vmap(of_one)(losses, self._arrays)

    def evaluate_sums(
        self, requests: Callable[[jax.Array], Sequence[Request]], factors: jax.Array
    ) -> list[jax.Array]:
        """The results of requests that sum over the batch, made for one example's factors."""

        def of_one(factor: jax.Array, arrays: list[Any]) -> list[jax.Array]:
            return self._go_back(jnp.all(factor >= 0), arrays, requests(factor))

        return jax.vmap(of_one, out_axes=None)(factors, self._arrays)

    def _go_back(
        self, always: jax.Array, arrays: list[Any], requests: Sequence[Request]
    ) -> list[PyTree]:
        """The backward pass of one example, where `always` is true but the compiler cannot know it.

        If the cotangent were known to be 1, two backward passes from the same residuals would be
        found to compute the same, and everything in between would be kept. And in a residual
        network the cotangent of a layer, a sum over all layers above, would be computed again for
        each of its readers: code, and the time to compile it, that grow with the square of the
        depth. Barriers should prevent both, but are removed too early on CPU.
        """
        cotangent = self._gradient.cotangent
        one = jnp.where(always, 1.0, 0.0).astype(cotangent.dtype)
        known = self._known(arrays) | {cotangent: one}
        return run(self._gradient.program, known, requests, _divided_by_one(always))

    def _known(self, arrays: list[Any]) -> dict[Value, Any]:
        return self._shared | dict(zip(self._values, arrays, strict=True))

    def _read_of(
        self, is_known: Callable[[Value], bool], requests: Sequence[Request]
    ) -> list[Value]:
        """The known values that are read when nothing before them is computed."""
        known = _Where(is_known)
        plan = make_plan(self._gradient.program, known, requests)
        return [atom for atom in plan.read if isinstance(atom, Value) and atom in known]


def _divided_by_one(always: jax.Array) -> Callable[[Any], Any]:
    """The identity, to the last bit, as a division that the compiler of CPUs cannot remove."""
    divisor = jax.lax.platform_dependent(
        always, cpu=lambda true: jnp.where(true, 1.0, 2.0), default=lambda _: jnp.ones(())
    )

    def divided(x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        # A divisor for each entry: a common one would become a factor.
        return x / jnp.where(x >= 0, divisor, 1.0).astype(x.dtype)

    return divided


class _Where:
    def __init__(self, is_known: Callable[[Value], bool]):
        self._is_known = is_known

    def __contains__(self, value: Value) -> bool:
        return self._is_known(value)
