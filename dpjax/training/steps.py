"""The steps of a run, with privacy and without: the same calls for the loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from dpjax_accounting import Mechanism

from dpjax.basics.typing import PyTree
from dpjax.privatize import (
    AdaptiveClipping,
    AdaptivePrivateGradient,
    ClippingRule,
    NoiseStrategy,
    PrivateGradient,
    PrivateZerothOrderGradient,
    RunKey,
    Sampler,
    StepTotal,
    clipped_grad,
    microbatches,
    private_gradient,
    private_zeroth_order_gradient,
)
from dpjax.training.devices.layout import Layout
from dpjax.training.optimizers.clip_norm_state import ClipNormState

if TYPE_CHECKING:
    import optax

# (params, record, frozen) -> scalar; the record has no axis of records.
Loss = Callable[[PyTree, Any, PyTree], jax.Array]
Order = Callable[[np.ndarray], np.ndarray]
# Gradients are summed as they are: none that float32 can take the norm of is longer.
_UNREACHED_NORM = 1e30


class LoweredStep(NamedTuple):
    """The programs of a step, not compiled.

    Attributes:
        add: of `add`.
        update: of `update`.
        noise: what makes correlated noise beforehand, `(state, keys) -> (noise, state)`; None where
            `update` draws the noise.
    """

    add: jax.stages.Lowered
    update: jax.stages.Lowered
    noise: jax.stages.Lowered | None = None


class ZerothOrder(NamedTuple):
    """How gradients are estimated from forward passes: see `private_zeroth_order_gradient`.

    Attributes:
        smoothing: φ > 0.
        num_directions: k, at least 1.
    """

    smoothing: float
    num_directions: int


class TrainingSteps(Protocol):
    """What the loop does in each step; as in `dpjax.PrivateGradient`, and then the update."""

    def batches(
        self, step: int, *, microbatch_size: int, order: Order
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draws the batch of a step, as microbatches `(rows, mask)`."""

    def begin(self, params: PyTree, step: int, state: PyTree = None) -> tuple[StepTotal, PyTree]:
        """Returns the total that a step starts from, and the parameters that it is made with.

        The buffers of `params` are taken over: here, in `add` and in `update`. The clip norm, if it
        adapts, is in `state`.
        """

    def add(
        self, total: StepTotal, params: PyTree, batch: PyTree, mask: jax.Array, frozen: PyTree
    ) -> tuple[StepTotal, PyTree]:
        """Adds the gradients of a microbatch; takes over the buffers of total and parameters."""

    def update(
        self, total: StepTotal, step: int, params: PyTree, state: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Returns parameters and optimizer state after the step; takes over their buffers."""

    def lower(
        self, params: PyTree, state: PyTree, batch: PyTree, mask: PyTree, frozen: PyTree
    ) -> LoweredStep:
        """Lowers the programs of `add` and `update` for arrays or shapes, of which none is read."""


class PrivateTraining:
    """Steps that clip each record's gradient, and add the mechanism's noise once per step.

    Args:
        loss: of one record, `(params, record, frozen) -> scalar`.
        optimizer: makes an update of the private gradient.
        mechanism: what the accountant counts.
        rule: bounds what one record contributes. With `AdaptiveClipping` the clip norm is in the
            state: the optimizer is one of `keep_clip_norm`.
        run_key: the secret of the run.
        strategy: how the clipped sum is computed, as for `dpjax.clipped_grad`.
        device_memory: bytes that one device can use; likewise.
        present: `(S,)` bool, which slots of records are taken; None for all.
        noise_strategy: of noise that is correlated over steps, as for `dpjax.private_gradient`.
        layout: where parameters and optimizer state lie; None for a single device.
        zeroth_order: how gradients are estimated from forward passes; None for back-propagation.

    Attributes:
        noise_strategy: the one in use, public; None where noise is independent.
    """

    def __init__(
        self,
        loss: Loss,
        optimizer: optax.GradientTransformation,
        mechanism: Mechanism,
        rule: ClippingRule | AdaptiveClipping,
        run_key: RunKey,
        *,
        strategy: str = "auto",
        device_memory: int | None = None,
        present: np.ndarray | None = None,
        noise_strategy: NoiseStrategy | None = None,
        layout: Layout | None = None,
        zeroth_order: ZerothOrder | None = None,
    ) -> None:
        loss = loss if layout is None else layout.gathering(loss)
        self._in_place: PrivateZerothOrderGradient | None = None
        private: PrivateGradient | AdaptivePrivateGradient | PrivateZerothOrderGradient
        # Which rules fit is checked where they are used.
        common: dict[str, Any] = {
            "mechanism": mechanism,
            "rule": rule,
            "run_key": run_key,
            "present": present,
        }
        if zeroth_order is None:
            private = private_gradient(
                loss,
                strategy=strategy,
                device_memory=device_memory,
                noise_strategy=noise_strategy,
                **common,
            )
        else:
            private = self._in_place = private_zeroth_order_gradient(
                loss,
                smoothing=zeroth_order.smoothing,
                num_directions=zeroth_order.num_directions,
                **common,
            )

        def apply(mean: PyTree, params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
            return _updated(optimizer, mean, params, state, layout)

        def apply_both(
            released: tuple[PyTree, jax.Array], params: PyTree, state: ClipNormState
        ) -> tuple[PyTree, ClipNormState]:
            mean, clip_norm = released
            params, updated = apply(mean, params, state)
            return params, updated._replace(clip_norm=clip_norm)

        self._private = private
        is_adaptive = isinstance(private, AdaptivePrivateGradient)
        self._apply = apply_both if is_adaptive else apply
        self.noise_strategy = private.noise_strategy
        self.batches = private.batches

    def begin(self, params: PyTree, step: int, state: PyTree = None) -> tuple[StepTotal, PyTree]:
        """Returns the total that a step starts from, and the parameters that it is made with.

        Raises:
            TypeError: the clip norm adapts, and the state has none.
        """
        if self._in_place is not None:
            return self._in_place.begin_in_place(params, step)
        if not isinstance(self._private, AdaptivePrivateGradient):
            return self._private.zeros(params, step), params
        if not isinstance(state, ClipNormState):
            raise TypeError(
                "state must be that of an optimizer made by keep_clip_norm, got "
                f"{type(state).__name__}"
            )
        return self._private.zeros(params, step, state.clip_norm), params

    def add(
        self, total: StepTotal, params: PyTree, batch: PyTree, mask: jax.Array, frozen: PyTree
    ) -> tuple[StepTotal, PyTree]:
        """Adds what a microbatch contributes; parameters come back as they were."""
        if self._in_place is not None:
            return self._in_place.add_in_place(total, params, batch, mask, frozen)
        return self._private.add(total, params, batch, mask, frozen), params

    def update(
        self, total: StepTotal, step: int, params: PyTree, state: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Adds the noise, and applies the optimizer: one compiled program."""
        updated = self._private.release_and_update(self._apply, total, step, params, state)
        return updated[0], updated[1]

    def lower(
        self, params: PyTree, state: PyTree, batch: PyTree, mask: PyTree, frozen: PyTree
    ) -> LoweredStep:
        """Lowers clipping, noise and optimizer as they are in a step."""
        in_place = self._in_place
        lower_add = self._private.lower_add if in_place is None else in_place.lower_add_in_place
        return LoweredStep(
            lower_add(params, batch, mask, frozen),
            self._private.lower_update(self._apply, params, params, state),
            self._private.lower_noise(params),
        )


class NonPrivateTraining:
    """The same recipe without clipping and noise.

    Records whose gradient is not finite are left out here too: one of them would end the run.

    Args:
        loss: of one record, `(params, record, frozen) -> scalar`.
        optimizer: makes an update of the mean gradient.
        sampler: draws the batches.
        batch_size: mean size of a batch; the sum is divided by it.
        strategy: how the sum is computed, as for `dpjax.clipped_grad`.
        device_memory: bytes that one device can use, as for `dpjax.clipped_grad`.
        layout: where parameters and optimizer state lie; None for a single device.
    """

    def __init__(
        self,
        loss: Loss,
        optimizer: optax.GradientTransformation,
        sampler: Sampler,
        batch_size: float,
        *,
        strategy: str = "auto",
        device_memory: int | None = None,
        layout: Layout | None = None,
    ) -> None:
        self._sampler = sampler
        num_devices = 1 if layout is None else layout.devices_of_rows
        loss = loss if layout is None else layout.gathering(loss)

        def add(
            total: StepTotal, params: PyTree, batch: PyTree, mask: jax.Array, frozen: PyTree
        ) -> StepTotal:
            def record_loss(params: PyTree, record: PyTree) -> jax.Array:
                return loss(params, record, frozen)

            summed = clipped_grad(
                record_loss,
                clip_norm=_UNREACHED_NORM,
                strategy=strategy,
                num_devices=num_devices,
                device_memory=device_memory,
            )
            added = total.plus(summed(params, batch, mask), mask)
            if layout is None:
                return added
            grads = jax.lax.with_sharding_constraint(added.grads, layout.shardings(params))
            return dataclasses.replace(added, grads=grads)

        def apply(grads: PyTree, params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
            mean = jax.tree.map(lambda g: g / batch_size, grads)
            return _updated(optimizer, mean, params, state, layout)

        self._add = jax.jit(add, donate_argnums=0)
        self._apply = jax.jit(apply, donate_argnums=(1, 2))

    def batches(
        self, step: int, *, microbatch_size: int, order: Order
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draws the batch of a step, as microbatches `(rows, mask)`."""
        return microbatches(order(self._sampler.indices(step)), microbatch_size)

    def begin(self, params: PyTree, step: int, state: PyTree = None) -> tuple[StepTotal, PyTree]:
        """Returns the total that a step starts from, and the parameters."""
        del state
        return StepTotal.zeros(params, step), params

    def add(
        self, total: StepTotal, params: PyTree, batch: PyTree, mask: jax.Array, frozen: PyTree
    ) -> tuple[StepTotal, PyTree]:
        """Adds the gradients of a microbatch, and gives the parameters back."""
        return self._add(total, params, batch, mask, frozen), params

    def update(
        self, total: StepTotal, step: int, params: PyTree, state: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Applies the optimizer to the sum divided by the mean batch size."""
        del step
        updated = self._apply(total.grads, params, state)
        return updated[0], updated[1]

    def lower(
        self, params: PyTree, state: PyTree, batch: PyTree, mask: PyTree, frozen: PyTree
    ) -> LoweredStep:
        """Lowers sum and optimizer as they are in a step."""
        total = jax.eval_shape(StepTotal.zeros, params)
        return LoweredStep(
            self._add.lower(total, params, batch, mask, frozen),
            self._apply.lower(total.grads, params, state),
        )


@jax.jit
def are_finite(tree: PyTree) -> jax.Array:
    """Whether all entries of all leaves are finite, a boolean scalar."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


@jax.named_scope("optimizer")
def _updated(
    optimizer: optax.GradientTransformation,
    mean: PyTree,
    params: PyTree,
    state: PyTree,
    layout: Layout | None,
) -> tuple[PyTree, PyTree]:
    # It loads a second's worth of modules, which an import of dpjax must not.
    import optax

    updates, state = optimizer.update(mean, state, params)
    params = optax.apply_updates(params, updates)
    return (params, state) if layout is None else layout.keep(params, state)
