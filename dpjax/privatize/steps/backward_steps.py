"""Steps that sum the clipped gradients of back-propagation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from dpjax.basics.typing import PyTree
from dpjax.privatize.clipping import ClippedGrad, clipped_grad
from dpjax.privatize.devices.spread_sums import Shardings, shardings_of
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

    def _make_clip(self) -> Callable[..., ClippedGrad]:
        rule_of, strategy, device_memory = self._make_rule_of(), self.strategy, self.device_memory

        def clip(
            loss_fn: Callable[[PyTree, PyTree], jax.Array],
            total: StepTotal,
            params: PyTree,
            batch: PyTree,
            mask: jax.Array,
            shardings: Shardings,
            num_devices: int,
        ) -> ClippedGrad:
            # Only their sum has a place.
            del shardings
            clipped = clipped_grad(
                loss_fn,
                rule=rule_of(total),
                strategy=strategy,
                num_devices=num_devices,
                device_memory=device_memory,
            )
            return clipped(params, batch, mask)

        return clip

    def _make_rule_of(self) -> Callable[[StepTotal], ClippingRule]:
        """Makes the function from a total to the rule of its step."""
        raise NotImplementedError
