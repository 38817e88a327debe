"""The noise C⁻¹Z of a run, one step after another, as a function of run key and step alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from dpjax_accounting import BandedDPSGD
from jax.sharding import NamedSharding, PartitionSpec

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.explicit_axes import explicit_mesh
from dpjax.privatize.randomness.correlated.checks import check_strategy, column_scales
from dpjax.privatize.randomness.correlated.strategies import BandedStrategy, NoiseStrategy
from dpjax.privatize.randomness.noise import gaussian_noise
from dpjax.privatize.randomness.run_key import RunKey
from dpjax.privatize.untrained_leaves import split, with_zeros

# (state, noise keys of a step) -> the step's row of T⁻¹Z, and the state after it.
_Advance = Callable[[list[Any], jax.Array], tuple[list[jax.Array], list[Any]]]


class CorrelatedNoise:
    """Makes the noise C⁻¹Z, where row t of Z has the independent draws of step t.

    C = T diag(1 / s) with the Toeplitz matrix T of the strategy, and scales s for which every
    column has the mechanism's norm. Row t of the noise is s_t (T⁻¹Z)_t: `scale` and `unscaled`. It
    needs what came before it, which is kept from one step to the next. For another step than the
    next, as after a restart, the draws of all steps before are made again: the bits are the same.

    Args:
        mechanism: what the accountant counts.
        run_key: gives the draws.
        clip_norm: of every step.
        strategy: gives T. Default: the optimized banded one for the mechanism's steps and bands.

    Raises:
        ImportError: jax_privacy is not installed.
        TypeError: the strategy is none.
        ValueError: its matrix is not one that the mechanism is about.
    """

    # An output covers what later gradients see of it, not the other way round.
    in_order = True

    def __init__(
        self,
        mechanism: BandedDPSGD,
        run_key: RunKey,
        clip_norm: float,
        strategy: NoiseStrategy | None = None,
    ) -> None:
        if strategy is None:
            strategy = BandedStrategy.optimized(max(mechanism.num_steps, 1), mechanism.bands)
        if not isinstance(strategy, NoiseStrategy):
            raise TypeError(
                "noise_strategy must be a BandedStrategy or a BufferedStrategy, got "
                f"{type(strategy).__name__}"
            )
        self.strategy = strategy
        self._run_key, self._batch_size = run_key, mechanism.expected_batch_size
        self._scales = column_scales(strategy, mechanism)
        check_strategy(strategy, mechanism, self._scales)
        # Of Z, in float64 until it meets the noise.
        self._stddev = mechanism.noise_multiplier * clip_norm
        self._next_step = 0
        self._state: list[Any] = []
        self._made_for: object = None
        self._advance: _Advance | None = None

    def arguments(self, step: int, clipped_sum: PyTree) -> tuple[Any, ...]:
        """Returns noise, its factor σC s_t, and the divisor B of the step."""
        trained, _ = split(clipped_sum)
        return self.unscaled(step, trained), self._stddev * self.scale(step), self._batch_size

    def shapes(self, clipped_sum: PyTree) -> tuple[Any, ...]:
        """Returns `arguments` with the shapes of the noise in its place."""
        trained, _ = split(clipped_sum)
        noise = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), trained)
        return noise, self._stddev * self.scale(0), self._batch_size

    def lower(self, clipped_sum: PyTree) -> jax.stages.Lowered:
        """Lowers the program that makes the noise of a step and the state after it.

        Args:
            clipped_sum: arrays or shapes, of one device.
        """
        trained, _ = split(clipped_sum)
        shapes = [leaf.shape for leaf in jax.tree.leaves(trained)]
        advance, start = _programs(self.strategy, shapes)
        keys = self._run_key.noise_keys(0)
        return jax.jit(advance, donate_argnums=0).lower(jax.eval_shape(start), keys)

    def make_mean(self) -> Callable[..., PyTree]:
        """Returns the function from sum, noise, factor and divisor to the noisy mean."""
        return _mean_with

    def scale(self, step: int) -> float:
        """Returns s_t, which the unscaled noise of the step is multiplied by."""
        return float(self._scales[step])

    def unscaled(self, step: int, like: PyTree) -> PyTree:
        """Returns row t of T⁻¹Z, float32; each device draws the part that it holds.

        Args:
            step: in `range(num_steps)`.
            like: pytree of float32 arrays, which give shapes and devices; not read.
        """
        leaves, treedef = jax.tree.flatten(like)
        made_for = [(leaf.shape, _place_of(leaf)) for leaf in leaves]
        if self._advance is None or step < self._next_step or made_for != self._made_for:
            self._advance, self._state = _start(self.strategy, leaves)
            self._next_step, self._made_for = 0, made_for
        # A step that is interrupted leaves a state whose buffers are gone: begin again then.
        advance, self._advance = self._advance, None
        for earlier in range(self._next_step, step + 1):
            noise, self._state = advance(self._state, self._run_key.noise_keys(earlier))
        self._advance, self._next_step = advance, step + 1
        return jax.tree.unflatten(treedef, noise)


def _mean_with(
    clipped_sum: PyTree, noise: PyTree, factor: jax.Array, batch_size: jax.Array
) -> PyTree:
    """(clipped_sum + factor × noise) / batch_size; zeros for leaves that are not trained."""
    trained, fixed = split(clipped_sum)
    mean = jax.tree.map(lambda g, z: (g + factor * z) / batch_size, trained, noise)
    return with_zeros(mean, fixed)


def _start(strategy: NoiseStrategy, like: list[jax.Array]) -> tuple[_Advance, list[Any]]:
    """Compiles a step, and makes the state before the first one."""
    places = [_place_of(leaf) for leaf in like]
    places_of_state = [_with_leading_axis(place) for place in places]
    advance, start = _programs(strategy, [leaf.shape for leaf in like])
    mesh = explicit_mesh(like)
    if mesh is not None:
        automatic = {"axes": mesh.explicit_axes}
        advance = jax.sharding.auto_axes(
            advance, out_sharding=(places, places_of_state), **automatic
        )
        start = jax.sharding.auto_axes(start, out_sharding=places_of_state, **automatic)
    state = jax.jit(start, out_shardings=places_of_state)()
    compiled = jax.jit(advance, donate_argnums=0, out_shardings=(places, places_of_state))
    return compiled, state


def _programs(
    strategy: NoiseStrategy, shapes: Sequence[tuple[int, ...]]
) -> tuple[_Advance, Callable[[], list[Any]]]:
    """What makes a step's noise of its draws, and what makes the state before the first one."""
    matrix = strategy.inverse()

    def advance(state: list[Any], keys: jax.Array) -> tuple[list[jax.Array], list[Any]]:
        draws = gaussian_noise(keys, [jnp.zeros(shape, jnp.float32) for shape in shapes], 1.0)
        # Less than float32 would be another matrix.
        with jax.default_matmul_precision("highest"):
            noise, state = matrix.multiply_next(draws, state)
        return noise, state

    def start() -> list[Any]:
        return matrix.init_multiply([jnp.zeros(shape, jnp.float32) for shape in shapes])

    return advance, start


def _place_of(leaf: jax.Array) -> Any:
    """The sharding of an array that was put somewhere; None of one that just came to be there."""
    return leaf.sharding if leaf.committed else None


def _with_leading_axis(place: Any) -> Any:
    """The sharding of the state of an array: its rows lie on the devices that the array is on."""
    if isinstance(place, NamedSharding):
        return NamedSharding(place.mesh, PartitionSpec(None, *place.spec))
    return place
