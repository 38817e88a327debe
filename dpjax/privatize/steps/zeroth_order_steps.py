"""Steps from forward passes: clipped differences of losses, and what is released of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from dpjax.basics.typing import PyTree
from dpjax.privatize.clipping import ClippedGrad
from dpjax.privatize.devices.spread_sums import Shardings, kept_at, shardings_of
from dpjax.privatize.randomness.discrete.noise import DiscreteNoise
from dpjax.privatize.rules.clipping_rules import ClippingRule
from dpjax.privatize.steps.differences import clipped_differences, clipped_differences_in_place
from dpjax.privatize.steps.directions import Directions
from dpjax.privatize.steps.grid import check_can_be_on_grid, fingerprint, on_grid, units_of
from dpjax.privatize.steps.private_steps import PrivateSteps, with_shared
from dpjax.privatize.steps.total import StepTotal


@dataclasses.dataclass(frozen=True, eq=False)
class PrivateZerothOrderGradient(PrivateSteps):
    """Private zeroth-order gradients of a training loop, called as a `PrivateGradient`.

    Build it with `private_zeroth_order_gradient`.
    """

    rule: ClippingRule
    noise: DiscreteNoise
    smoothing: float
    num_directions: int

    def zeros(self, params: PyTree, step: int) -> StepTotal:
        """Returns the total that a step starts from: no units yet, and the step's directions.

        Args:
            params: the parameters that are trained.
            step: in `range(num_steps)`.

        Raises:
            TypeError: `step` is not an integer.
            ValueError: `step` is not a step of the mechanism.
        """
        step = self._checked_step(step)
        key = self.run_key.direction_key(step)
        directions = Directions.of(params, key, self.num_directions)
        return StepTotal.zeros(params, step, directions=directions, owner=self._owner)

    def begin_in_place(self, params: PyTree, step: int) -> tuple[StepTotal, PyTree]:
        """Returns the total that a step starts from, and parameters that can be moved in place.

        `zeros` and `add` move a copy of the parameters. `begin_in_place` and `add_in_place` need no
        copy. Every entry is rounded at random to a grid, for each leaf about 2⁻²² of its largest
        entry apart, where moving back is exact: the same in every step, whatever its batch is. That
        depends on parameters and run key alone, and costs no privacy. `add_in_place` measures
        whether parameters came back bit for bit, and a total where they did not is not released.

        Args:
            params: the parameters that are trained, float32. Their buffers are taken over.
            step: in `range(num_steps)`.

        Raises:
            TypeError: a trained leaf is not float32, or `step` is not an integer.
            ValueError: `step` is not a step of the mechanism.

        Example:
            >>> import jax.numpy as jnp
            >>> from dpjax import RunKey, private_zeroth_order_gradient
            >>> from dpjax_accounting import DPSGD
            >>> data = jnp.arange(40.0).reshape(20, 2)
            >>> params = jnp.zeros(2)
            >>> private = private_zeroth_order_gradient(
            ...     lambda params, x: jnp.sum((params - x) ** 2),
            ...     mechanism=DPSGD(
            ...         num_units=20, expected_batch_size=5, noise_multiplier=1.0, num_steps=3
            ...     ),
            ...     clip_norm=10.0,
            ...     run_key=RunKey.from_os_entropy(),
            ... )
            >>> total, params = private.begin_in_place(params, 0)
            >>> for rows, mask in private.batches(0, microbatch_size=4):
            ...     total, params = private.add_in_place(total, params, data[rows], mask)
            >>> params = params - 0.01 * private.release(total, 0)
        """
        step = self._checked_step(step)
        check_can_be_on_grid(params)
        key = self.run_key.rounding_key(step)
        where = shardings_of(params)
        params, units, start = self._compiled_begin(params, key, shardings=where)
        return self._total_in_place(params, step, units, start), params

    def add_in_place(
        self, total: StepTotal, params: PyTree, batch: PyTree, mask: jax.Array, *shared: PyTree
    ) -> tuple[StepTotal, PyTree]:
        """Adds the clipped differences of a microbatch, and gives the parameters back, unchanged.

        Args:
            total: from `begin_in_place`, or from this before. Its buffers are taken over.
            params: likewise.
            batch: as for `add`; so are the others.
            mask: `(b,)` bool, which examples count.
            shared: what else the loss takes.

        Raises:
            TypeError, ValueError: as `add`; or the total is from `zeros`.
        """
        self._check_mine(total)
        total.check_is_held()
        if total.is_restored is None:
            raise ValueError(
                "total is from zeros, whose parameters are on no grid. Write "
                "total, params = private.begin_in_place(params, step)"
            )
        added: tuple[StepTotal, PyTree] = self._compiled_add_in_place(
            total, params, batch, mask, *shared, shardings=shardings_of(params)
        )
        return added

    def lower_add_in_place(
        self, params: PyTree, batch: PyTree, mask: PyTree, *shared: PyTree
    ) -> jax.stages.Lowered:
        """Lowers the program of `add_in_place` for arrays or shapes, as `lower_add` does."""

        def begin(params: PyTree) -> StepTotal:
            units = units_of(params, self.smoothing)
            return self._total_in_place(params, 0, units, fingerprint(params))

        return self._compiled_add_in_place.lower(
            jax.eval_shape(begin, params),
            params,
            batch,
            mask,
            *shared,
            shardings=shardings_of(params),
        )

    def _total_in_place(
        self, params: PyTree, step: int, units: tuple[jax.Array, ...], start: jax.Array
    ) -> StepTotal:
        directions = Directions.of(params, self.run_key.direction_key(step), self.num_directions)
        directions = dataclasses.replace(directions, units=units, fingerprint=start)
        return StepTotal.zeros(params, step, directions=directions, owner=self._owner)

    def release(self, total: StepTotal, step: int) -> PyTree:
        """Adds the noise of the step to the k sums, once, and returns Σⱼ dⱼ zⱼ / k.

        d = (Σᵢ cᵢ dᵢ + noise) / B is what is released: sums of whole numbers, and discrete Gaussian
        noise with standard deviation σC, or discrete Laplace noise of scale σC. The rest is public:
        the directions depend on no record.

        Args:
            total: the sum over all microbatches of `batches(step, ...)`.
            step: the step that the total was made for.

        Returns:
            The private gradient: float32, the structure of the parameters; zeros of their own dtype
            for integer and boolean leaves.

        Raises:
            TypeError, ValueError: as `PrivateGradient.release`.
        """
        step = self._approve(total, step)
        return self._compiled_release(*self._sums(total), *self._noise(total, step))

    def _approve(self, total: StepTotal, step: int) -> int:
        step = super()._approve(total, step)
        if total.is_restored is not None and not bool(total.is_restored):
            raise RuntimeError(
                f"parameters of step {step} did not come back bit for bit after they were moved in "
                "place: what is left of a move may tell how many records a batch had, which is "
                "private. Nothing is released, and these parameters must not be used. Pass "
                "add_in_place what begin_in_place returned; if that is so, move a copy instead, "
                "with zeros and add, and report it"
            )
        return step

    def _abstract_total(self, params: PyTree) -> StepTotal:
        return jax.eval_shape(lambda params: self.zeros(params, 0), params)

    def _make_clip(self) -> Callable[..., ClippedGrad]:
        rule, smoothing, grid = self.rule, self.smoothing, self.noise.grid

        def clip(
            loss_fn: Callable[[PyTree, PyTree], jax.Array],
            total: StepTotal,
            params: PyTree,
            batch: PyTree,
            mask: jax.Array,
            shardings: Shardings,
            num_devices: int,
        ) -> ClippedGrad:
            del num_devices
            assert total.directions is not None
            return clipped_differences(
                loss_fn, total.directions, rule, smoothing, grid, params, batch, mask, shardings
            )

        return clip

    @functools.cached_property
    def _compiled_begin(self) -> Callable[..., tuple[PyTree, tuple[jax.Array, ...], jax.Array]]:
        smoothing = self.smoothing

        def begin(
            params: PyTree, key: jax.Array, *, shardings: Shardings
        ) -> tuple[PyTree, tuple[jax.Array, ...], jax.Array]:
            units = units_of(params, smoothing)
            params = kept_at(on_grid(params, units, key), shardings)
            return params, units, fingerprint(params)

        return jax.jit(begin, static_argnames="shardings", donate_argnums=0)

    @functools.cached_property
    def _compiled_add_in_place(self) -> jax.stages.Wrapped:
        # What is compiled must not refer to this object: see `_compiled_add`.
        loss_of_example, rule, smoothing = self.loss_fn, self.rule, self.smoothing
        grid = self.noise.grid

        def add(
            total: StepTotal,
            params: PyTree,
            batch: PyTree,
            mask: jax.Array,
            *shared: PyTree,
            shardings: Shardings = (),
        ) -> tuple[StepTotal, PyTree]:
            total.check_fits(params)
            directions, were_restored = total.directions, total.is_restored
            assert directions is not None and were_restored is not None
            loss_fn = with_shared(loss_of_example, shared)
            clipped, params, is_restored = clipped_differences_in_place(
                loss_fn, directions, rule, smoothing, grid, params, batch, mask, shardings
            )
            added = total.plus(clipped, mask)
            return dataclasses.replace(added, is_restored=were_restored & is_restored), params

        return jax.jit(add, static_argnames="shardings", donate_argnums=(0, 1))

    @functools.cached_property
    def _compiled_release(self) -> Callable[..., PyTree]:
        return jax.jit(self._make_release())

    def _sums(self, total: StepTotal) -> tuple[Any, ...]:
        return total.grads, total.directions

    def _noise(self, total: StepTotal, step: int) -> tuple[Any, ...]:
        return self.noise.arguments(step, total.grads)

    def _abstract_noise(self, total: StepTotal) -> tuple[Any, ...]:
        return self.noise.shapes(total.grads)

    def _make_release(self) -> Callable[..., PyTree]:
        mean, number = self.noise.make_mean(), self.num_directions

        def gradient(clipped_sum: jax.Array, directions: Directions, *noise: PyTree) -> PyTree:
            return directions.combined(mean(clipped_sum, *noise) / number)

        return gradient
