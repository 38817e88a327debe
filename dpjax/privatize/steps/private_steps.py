"""What private gradients share, whatever their clipping rule: batches, sums, and checks."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from dpjax_accounting import Mechanism

from dpjax.basics.typing import PyTree
from dpjax.privatize.clipping import ClippedGrad
from dpjax.privatize.devices.room import devices_of_rows
from dpjax.privatize.devices.spread_sums import Shardings, shardings_of
from dpjax.privatize.randomness.correlated.strategies import NoiseStrategy
from dpjax.privatize.randomness.run_key import RunKey
from dpjax.privatize.rules.clipping_rules import ClippingRule, FlatClipping
from dpjax.privatize.sampling.choice import num_steps_of, sampler_for
from dpjax.privatize.sampling.microbatches import microbatches
from dpjax.privatize.sampling.sampler import Sampler
from dpjax.privatize.steps.total import StepTotal


def check_one_rule(caller: str, run_key: object, clip_norm: object, rule: object) -> None:
    """Raises TypeError if `caller` got no run key, or not exactly one of clip norm and rule."""
    if not isinstance(run_key, RunKey):
        raise TypeError(f"run_key must be a RunKey, got {type(run_key).__name__}")
    if (clip_norm is None) == (rule is None):
        raise TypeError(f"{caller} needs either clip_norm or rule, and not both")


def constant_rule(clip_norm: float | None, rule: object, *, wanted: str) -> ClippingRule:
    """Returns the rule with a constant clip norm that was asked for.

    Args:
        clip_norm: of a rule for all parameters together.
        rule: instead of it.
        wanted: what it must be, for the error about something else.

    Raises:
        TypeError: the rule is none, or its clip norm is traced.
        ValueError: the clip norm is not positive.
    """
    if clip_norm is not None:
        rule = FlatClipping(clip_norm)
    if not isinstance(rule, ClippingRule):
        raise TypeError(f"rule must be {wanted}, got {rule!r}")
    if isinstance(rule.clip_norm, jax.core.Tracer):
        raise TypeError(
            "the clip norm must be a constant, got a traced value. Make the private gradient "
            "outside jax.jit; rule=AdaptiveClipping() of private_gradient has one that changes"
        )
    return rule


def with_shared(
    loss_fn: Callable[..., jax.Array], shared: tuple[PyTree, ...]
) -> Callable[[PyTree, PyTree], jax.Array]:
    """Returns `(params, example) -> scalar` with what else the loss takes bound."""

    def bound(params: PyTree, example: PyTree) -> jax.Array:
        return loss_fn(params, example, *shared)

    return bound


@dataclasses.dataclass(frozen=True, eq=False)
class PrivateSteps:
    """Steps of a training loop: sampling, the clipped sums, and what may be released.

    `PrivateGradient`, `AdaptivePrivateGradient` and `PrivateZerothOrderGradient` add how a step
    starts, what it sums and what it releases.
    """

    loss_fn: Callable[..., jax.Array]
    mechanism: Mechanism
    run_key: RunKey
    present: np.ndarray | None
    _released_steps: set[int] = dataclasses.field(default_factory=set, init=False, repr=False)
    # In the totals: the object itself would print, and be kept by compiled functions.
    _owner: object = dataclasses.field(default_factory=object, init=False, repr=False)

    @property
    def noise_strategy(self) -> NoiseStrategy | None:
        """The strategy of correlated noise, public; None where noise is independent."""
        return None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuses copies, also those by way of pickle.

        A copy would not know what this object releases afterwards. Both would release a step with
        the same noise.

        Raises:
            TypeError: always.
        """
        del protocol
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or pickled: the copy would release the same "
            "steps again, with the same noise. Keep the one object"
        )

    @functools.cached_property
    def num_steps(self) -> int:
        """How many steps the mechanism accounts for: all epochs, where it counts in epochs."""
        return num_steps_of(self.mechanism)

    def batches(
        self,
        step: int,
        *,
        microbatch_size: int,
        order: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draws the batch of a step and cuts it into microbatches of one static shape.

        Args:
            step: in `range(num_steps)`.
            microbatch_size: b, the number of rows of every microbatch, at least 1.
            order: takes the drawn units, `(n,)` int64 ascending, and returns them in another order,
                for instance by the length of their text.

        Returns:
            Pairs (rows, mask), `(b,)` int64 and `(b,)` bool: the units of a microbatch, and which
            of them count. The others are copies. An empty batch has no pair.

        Raises:
            TypeError: `step` is not an integer.
            ValueError: `step` is not a step of the mechanism, `microbatch_size` is not positive,
                or `order` left out, repeated or invented units.
        """
        drawn = self._drawn_units(self._checked_step(step))
        if microbatch_size < 1:
            raise ValueError(f"microbatch_size must be at least 1, got {microbatch_size}")
        ordered = drawn if order is None else np.asarray(order(drawn.copy()))
        if not np.array_equal(np.sort(ordered), drawn):
            raise ValueError(
                "order must return the units that it was given, each once; the accountant counts "
                "on exactly those that were drawn"
            )
        return microbatches(ordered, microbatch_size)

    def add(
        self, total: StepTotal, params: PyTree, batch: PyTree, mask: jax.Array, *shared: PyTree
    ) -> StepTotal:
        """Adds the clipped gradients of a microbatch to the total of the step.

        Compiled, once for each shape of the arguments. The sums lie where the parameters do, also
        on several devices. The buffers of `total` are taken over:
        write `total = private.add(total, ...)`.

        Args:
            total: from `zeros`, or from `add` before.
            params: the parameters that are trained, as `clipped_grad` takes them.
            batch: the examples, a pytree of arrays with a leading example axis `(b, ...)`.
            mask: `(b,)` bool, from `batches`: which examples count.
            shared: what the loss takes beside parameters and example, the same for all examples:
                pytrees of arrays without an example axis, such as frozen parameters.

        Raises:
            TypeError: `total` is no total; or as `clipped_grad`'s function.
            ValueError: the total is that of another object or of other parameters, or has been used
                up; or as `clipped_grad`'s function.
        """
        self._check_mine(total)
        total.check_is_held()
        added: StepTotal = self._compiled_add(
            total,
            params,
            batch,
            mask,
            *shared,
            shardings=shardings_of(params),
            num_devices=devices_of_rows(batch),
        )
        return added

    def lower_add(
        self, params: PyTree, batch: PyTree, mask: PyTree, *shared: PyTree
    ) -> jax.stages.Lowered:
        """Lowers the program of `add` for arrays or shapes (`jax.ShapeDtypeStruct`): none is read.

        `lower_add(...).compile().memory_analysis()` tells what the program needs.

        Args:
            params: as for `add`; so are the others.
            batch: the examples.
            mask: which of them count.
            shared: what else the loss takes.
        """
        return self._compiled_add.lower(
            self._abstract_total(params),
            params,
            batch,
            mask,
            *shared,
            shardings=shardings_of(params),
            num_devices=devices_of_rows(batch),
        )

    def release_and_update(
        self, update: Callable[..., PyTree], total: StepTotal, step: int, *args: PyTree
    ) -> PyTree:
        """Calls `update(release(total, step), *args)` as one compiled program.

        What is released then needs no memory of its own.

        Args:
            update: a function that can be compiled, the same object in every step: JAX compiles
                another one again.
            total: as for `release`.
            step: as for `release`.
            args: pytrees of arrays, such as parameters and optimizer state. Their buffers are taken
                over: use what `update` returned instead.

        Raises:
            TypeError, ValueError: as `release`.
        """
        step = self._approve(total, step)
        return self._compiled_update(update, args, *self._sums(total), *self._noise(total, step))

    def lower_update(
        self, update: Callable[..., PyTree], params: PyTree, *args: PyTree
    ) -> jax.stages.Lowered:
        """Lowers the program of `release_and_update` for arrays or shapes: nothing is released.

        Args:
            update: as for `release_and_update`.
            params: the parameters that the total is of.
            args: what `update` takes beside what is released.
        """
        total = self._abstract_total(params)
        return self._compiled_update.lower(
            update, args, *self._sums(total), *self._abstract_noise(total)
        )

    def lower_noise(self, params: PyTree) -> jax.stages.Lowered | None:
        """Returns nothing: independent noise needs no program of its own."""
        del params
        return None

    def _abstract_total(self, params: PyTree) -> StepTotal:
        """The shapes of the total that `zeros` makes."""
        raise NotImplementedError

    def _sums(self, total: StepTotal) -> tuple[Any, ...]:
        """What of a total the release reads; its gradients first."""
        raise NotImplementedError

    def _noise(self, total: StepTotal, step: int) -> tuple[Any, ...]:
        """What the release of `step` takes beside the sums: keys, or the noise itself."""
        raise NotImplementedError

    def _abstract_noise(self, total: StepTotal) -> tuple[Any, ...]:
        """Arrays or shapes like those of `_noise`: nothing secret is drawn."""
        raise NotImplementedError

    def _make_release(self) -> Callable[..., Any]:
        """Makes the function `(*sums, *noise) -> what is released`; it holds no `self`."""
        raise NotImplementedError

    @functools.cached_property
    def _compiled_update(self) -> jax.stages.Wrapped:
        release = self._make_release()

        def run(update: Callable[..., PyTree], args: tuple[PyTree, ...], *read: PyTree) -> PyTree:
            return update(release(*read), *args)

        return jax.jit(run, static_argnums=0, donate_argnums=1)

    @functools.cached_property
    def _compiled_add(self) -> jax.stages.Wrapped:
        """`(total, params, batch, mask, *shared, shardings, num_devices) -> total`, compiled."""
        # What is compiled must not refer to this object, which refers to it: Python's collector
        # does not see through JAX's caches, and neither would be freed.
        loss_of_example, clip = self.loss_fn, self._make_clip()

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
            loss_fn = with_shared(loss_of_example, shared)
            clipped = clip(loss_fn, total, params, batch, mask, shardings, num_devices)
            return total.plus(clipped, mask, shardings)

        return jax.jit(add, static_argnames=("shardings", "num_devices"), donate_argnums=0)

    def _make_clip(self) -> Callable[..., ClippedGrad]:
        """Makes `(loss_fn, total, params, batch, mask, shardings, num_devices) -> ClippedGrad`.

        It must not refer to this object.
        """
        raise NotImplementedError

    def _drawn_units(self, step: int) -> np.ndarray:
        return self._sampler.indices(step)

    @functools.cached_property
    def _sampler(self) -> Sampler:
        return sampler_for(self.mechanism, self.run_key, self.present)

    def _approve(self, total: StepTotal, step: int) -> int:
        """Checks that `total` may be released as `step`, and puts the step on record."""
        self._check_mine(total)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(total)):
            raise TypeError(
                "release checks the total on the host and cannot be traced. Call it outside "
                "jax.jit; release_and_update compiles noise and update together"
            )
        step = self._checked_step(step)
        if step in self._released_steps:
            raise ValueError(
                f"step {step} has been released already. The noise of a step is always the same, "
                "and the difference of two releases would show the data without noise. To start "
                "again, take a fresh RunKey and make another private gradient"
            )
        total.check_is_held()
        made_for, counted = (int(x) for x in jax.device_get((total.step, total.num_records)))
        if made_for != step:
            raise ValueError(
                f"total was made for step {made_for}, got step {step}. Release the total of "
                f"zeros(params, {step})"
            )
        drawn = len(self._drawn_units(step))
        if counted != drawn:
            raise ValueError(
                f"total has {counted} records, the batch of step {step} has {drawn}. Add "
                f"every microbatch of batches({step}, ...) once, with its mask"
            )
        self._released_steps.add(step)
        return step

    def _check_mine(self, total: StepTotal) -> None:
        if not isinstance(total, StepTotal):
            raise TypeError(f"total must come from zeros and add, got {type(total).__name__}")
        if total.owner is not self._owner:
            raise ValueError(
                "total belongs to another private gradient, whose loss, clipping rule, mechanism "
                "or run key may differ. Make it with zeros of this one"
            )

    def _checked_step(self, step: int) -> int:
        if isinstance(step, bool):
            raise TypeError(f"step must be an integer, got {step}")
        step = operator.index(step)
        if not 0 <= step < self.num_steps:
            raise ValueError(
                f"step must be in range({self.num_steps}), the steps that the mechanism "
                f"accounts for, got {step}"
            )
        return step
