"""The sums over the microbatches of one training step."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.clipping import ClippedGrad
from dpjax.privatize.devices.spread_sums import Shardings, kept_at, shardings_of
from dpjax.privatize.steps.directions import Directions
from dpjax.privatize.untrained_leaves import is_fixed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepTotal:
    """Sums over the microbatches of one step: a pytree of arrays, private until noise is added.

    `PrivateGradient.zeros` makes the first total of a step, `PrivateGradient.add` the following.

    Attributes:
        grads: Σᵢ cᵢ gᵢ, float32, the structure and shapes of the parameters; zeros of their own
            dtype for integer and boolean parameters. With `directions`: Σᵢ cᵢ dᵢ, `(k,)` int32, in
            intervals of a grid.
        loss: sum of the losses that are finite, float32 scalar.
        num_records: number of units drawn, int32 scalar.
        num_clipped: number of units whose gradient was shortened, int32 scalar.
        num_nonfinite: number of units whose loss or gradient is not finite, int32 scalar.
        num_losses: number of units whose loss is finite, int32 scalar.
        step: the step that the sums belong to, int32 scalar.
        clip_norm: C of this step, float32 scalar, where the rule is `AdaptiveClipping`; else None.
        doubled_count: 2Σᵢ (bᵢ - ½), bᵢ = 1 where unit i was not clipped, int32 scalar, where the
            rule is `AdaptiveClipping`; else None.
        directions: those of this step, where differences of losses along them are summed; else
            None.
        owner: identifies the `PrivateGradient` that made the total; None where none did.
    """

    grads: PyTree
    loss: jax.Array
    num_records: jax.Array
    num_clipped: jax.Array
    num_nonfinite: jax.Array
    num_losses: jax.Array
    step: jax.Array
    clip_norm: jax.Array | None = None
    doubled_count: jax.Array | None = None
    directions: Directions | None = None
    is_restored: jax.Array | None = None
    owner: object = dataclasses.field(default=None, metadata={"static": True}, repr=False)

    @classmethod
    def zeros(
        cls,
        params: PyTree,
        step: int = 0,
        *,
        clip_norm: float | jax.Array | None = None,
        directions: Directions | None = None,
        owner: object = None,
    ) -> StepTotal:
        """Returns the total of no units, which is all that an empty Poisson batch adds up to.

        Every array has a buffer of its own, which a compiled function may take over (donation).
        """
        return cls(
            grads=_zeros_of_all(params, shardings=shardings_of(params))
            if directions is None
            else jnp.zeros(directions.number, jnp.int32),
            loss=jnp.zeros((), jnp.float32),
            num_records=jnp.zeros((), jnp.int32),
            num_clipped=jnp.zeros((), jnp.int32),
            num_nonfinite=jnp.zeros((), jnp.int32),
            num_losses=jnp.zeros((), jnp.int32),
            step=jnp.array(step, jnp.int32),
            clip_norm=None if clip_norm is None else jnp.array(clip_norm, jnp.float32, copy=True),
            doubled_count=None if clip_norm is None else jnp.zeros((), jnp.int32),
            directions=directions,
            is_restored=None if directions is None or directions.units is None else jnp.array(True),
            owner=owner,
        )

    def plus(self, clipped: ClippedGrad, mask: jax.Array, shardings: Shardings = ()) -> StepTotal:
        """Returns the total with one more microbatch.

        Args:
            clipped: what a clipped gradient function returned for the microbatch.
            mask: `(B,)` bool, the mask that the function was given.
            shardings: where sums of gradients are kept. Those of differences are on every device.
        """
        has_loss = jnp.isfinite(clipped.losses)
        count = self.doubled_count
        grads = jax.tree.map(jnp.add, self.grads, clipped.grads)
        return dataclasses.replace(
            self,
            grads=kept_at(grads, shardings if self.directions is None else ()),
            loss=self.loss + jnp.sum(jnp.where(has_loss, clipped.losses, 0.0)),
            num_records=self.num_records + _number_of(mask),
            num_clipped=self.num_clipped + clipped.num_clipped,
            num_nonfinite=self.num_nonfinite
            + _number_of(mask & ~(has_loss & jnp.isfinite(clipped.norms))),
            num_losses=self.num_losses + _number_of(mask & has_loss),
            doubled_count=None
            if count is None
            else count + _number_of(clipped.counted) - 2 * clipped.num_clipped,
        )

    def check_fits(self, params: PyTree) -> None:
        """Raises ValueError where `params` have another structure or shapes than the sums.

        With `directions`: than these.
        """
        of_total = self.grads if self.directions is None else self.directions.shapes()
        sums, given = _shapes_by_path(of_total), _shapes_by_path(params)
        for path in {**sums, **given}:
            if sums.get(path) != given.get(path):
                raise ValueError(
                    f"total was made for other parameters: params{path} has shape "
                    f"{given.get(path, 'missing')}, its sum {sums.get(path, 'missing')}. Make the "
                    "total with zeros(params, step) of the same parameters"
                )

    def check_is_held(self) -> None:
        """Raises ValueError where `add` or `release` has taken over the arrays before."""
        leaves = [leaf for leaf in jax.tree.leaves(self) if not isinstance(leaf, jax.core.Tracer)]
        if any(leaf.is_deleted() for leaf in leaves):
            raise ValueError(
                "total has been used up: add and release take over its buffers. Write "
                "total = private.add(total, ...), and use what add returned"
            )


@functools.partial(jax.jit, static_argnames="shardings")
def _zeros_of_all(params: PyTree, *, shardings: Shardings) -> PyTree:
    """One program instead of three for each of hundreds of leaves, in every step."""
    return kept_at(jax.tree.map(_zeros_of, params), shardings)


def _zeros_of(leaf: Any) -> jax.Array:
    return jnp.zeros_like(leaf) if is_fixed(leaf) else jnp.zeros_like(leaf, dtype=jnp.float32)


def _number_of(flags: jax.Array) -> jax.Array:
    return jnp.sum(flags, dtype=jnp.int32)


def _shapes_by_path(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}
