"""Steps that sum the clipped gradients of back-propagation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax

from dpjax.basics.typing import PyTree
from dpjax.privatize.clipping import clipped_grad
from dpjax.privatize.devices.spread_sums import Shardings, kept_at, shardings_of
from dpjax.privatize.rules.clipping_rules import ClippingRule
from dpjax.privatize.steps.private_steps import PrivateSteps
from dpjax.privatize.steps.total import StepTotal


@dataclasses.dataclass(frozen=True, eq=False)
class BackwardSteps(PrivateSteps):
    """What `PrivateGradient` and `AdaptivePrivateGradient` share: sums of clipped gradients."""

    strategy: str
    device_memory: int | None

    def _abstract_total(self, params: PyTree) -> StepTotal:
        """The shapes of the total that `zeros` makes, its sums where the parameters lie."""
        total = jax.eval_shape(lambda params: StepTotal.zeros(params, owner=self._owner), params)
        where = shardings_of(params)
        if not where:
            return total
        leaves, treedef = jax.tree.flatten(total.grads)
        placed = [leaf.update(sharding=at) for leaf, at in zip(leaves, where, strict=True)]
        return dataclasses.replace(total, grads=jax.tree.unflatten(treedef, placed))

    @functools.cached_property
    def _compiled_add(self) -> jax.stages.Wrapped:
        # What is compiled must not refer to this object, which refers to it: Python's collector
        # does not see through JAX's caches, and neither would be freed.
        loss_of_example, rule_of = self.loss_fn, self._make_rule_of()
        strategy, device_memory = self.strategy, self.device_memory

        def add(
            total: StepTotal,
            params: PyTree,
            batch: PyTree,
            mask: jax.Array,
            *shared: PyTree,
            shardings: Shardings = (),
            num_devices: int = 1,
        ) -> StepTotal:
            # JAX traces again when a structure or shape differs: later steps do not pay for this.
            total.check_fits(params)

            def loss_fn(params: PyTree, example: PyTree) -> jax.Array:
                return loss_of_example(params, example, *shared)

            clipped = clipped_grad(
                loss_fn,
                rule=rule_of(total),
                strategy=strategy,
                num_devices=num_devices,
                device_memory=device_memory,
            )
            added = total.plus(clipped(params, batch, mask), mask)
            return dataclasses.replace(added, grads=kept_at(added.grads, shardings))

        return jax.jit(add, static_argnames=("shardings", "num_devices"), donate_argnums=0)

    def _make_rule_of(self) -> Callable[[StepTotal], ClippingRule]:
        """Makes the function from a total to the rule of its step."""
        raise NotImplementedError
