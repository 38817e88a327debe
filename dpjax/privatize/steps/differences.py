"""Clipped differences of losses along random directions: a gradient estimate from forward passes.

Memory is that of inference and of the loop around it, one pass after another and no cotangent; and
of a perturbed copy of the trained parameters, where these are not moved in place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.clipping import (
    ClippedGrad,
    check_params,
    check_scalar,
    checked_batch_size,
    checked_mask,
)
from dpjax.privatize.devices.explicit_axes import explicit_mesh
from dpjax.privatize.devices.spread_sums import Shardings, kept_at
from dpjax.privatize.devices.varying import example_types
from dpjax.privatize.float32.scaling import dense_norm
from dpjax.privatize.randomness.discrete.noise import Grid
from dpjax.privatize.rules.clipping_rules import ClippingRule, scale
from dpjax.privatize.steps.directions import Directions
from dpjax.privatize.steps.grid import fingerprint

_log = logging.getLogger(__name__)


def clipped_differences(
    loss_fn: Callable[[PyTree, PyTree], jax.Array],
    directions: Directions,
    rule: ClippingRule,
    smoothing: float,
    grid: Grid,
    params: PyTree,
    batch: PyTree,
    mask: jax.Array,
    shardings: Shardings = (),
) -> ClippedGrad:
    """Returns Σᵢ cᵢ dᵢ, with the k differences d_ij = (Lᵢ(θ + φzⱼ) - Lᵢ(θ - φzⱼ)) / 2φ of record i.

    Source: Zhang et al. 2024, "Private Fine-tuning of Large Language Models with Zeroth-order
    Optimization", arXiv:2401.04343, Algorithm 1; for k = 1 the dᵢ are scalars. For k > 1 the vector
    of the k differences of a record is clipped in L2 norm, so that one record moves the sum of
    vectors by at most C.

    Args:
        loss_fn: `(params, example) -> scalar`, of one example without a batch axis.
        directions: z₁ … z_k, the same for every record of a step, and for both signs.
        rule: bounds the contribution of one record; of a single group.
        smoothing: φ > 0.
        grid: what the clipped vectors are rounded to.
        params: θ.
        batch: the examples, with a leading axis `(B, ...)`; B may be 0.
        mask: `(B,)` bool, which of them count.
        shardings: where the parameters lie, from `shardings_of`.

    Returns:
        As a clipped gradient of k parameters: `grads` `(k,)` int32, in intervals of the grid, of
        which C has `grid.resolution`; `norms` those of the vectors of differences, `losses` the
        mean over all passes, all of which are away from θ.

    Raises:
        TypeError, ValueError: as a clipped gradient function; or the mesh has explicit axes.
    """
    mask = _checked(loss_fn, directions, smoothing, params, batch, mask)

    def run_pass(_: None, number: jax.Array) -> tuple[None, jax.Array]:
        index, is_second = number // 2, number % 2
        distance = jnp.where(is_second == 1, -smoothing, smoothing).astype(jnp.float32)
        moved = kept_at(directions.moved(params, index, distance), shardings)
        return None, _losses(loss_fn, moved, batch)

    # A loop over all passes: the compiler can neither keep z from one to the next nor run two at
    # once, both of which would cost the memory that this method saves.
    _, losses = jax.lax.scan(run_pass, None, jnp.arange(2 * directions.number))
    both = losses.reshape(directions.number, 2, len(mask))
    return _clipped(both, rule, smoothing, grid, mask)


def clipped_differences_in_place(
    loss_fn: Callable[[PyTree, PyTree], jax.Array],
    directions: Directions,
    rule: ClippingRule,
    smoothing: float,
    grid: Grid,
    params: PyTree,
    batch: PyTree,
    mask: jax.Array,
    shardings: Shardings = (),
) -> tuple[ClippedGrad, PyTree, jax.Array]:
    """Returns what `clipped_differences` does, without a copy of θ: it is moved, and moved back.

    The walk is +δ, -2δ, +δ for each direction (Malladi et al. 2023, arXiv:2305.17333, Algorithm 1),
    on a grid where it ends exactly where it started; δ is φz rounded to the grid.

    Args:
        loss_fn: as for `clipped_differences`; so are the others but these.
        directions: with units.
        rule: bounds the contribution of one record.
        smoothing: φ, the one that the units were made for.
        grid: what the clipped vectors are rounded to, not the grid of the parameters.
        params: θ, on the grid of its units; donate them, and use what is returned.
        batch: the examples.
        mask: which of them count.
        shardings: where the parameters lie.

    Returns:
        The clipped sum of differences; θ; and a boolean scalar, whether θ came back bit for bit,
        which is measured.
    """
    mask = _checked(loss_fn, directions, smoothing, params, batch, mask)
    nothing = jnp.zeros(len(mask), jnp.float32)

    # Every move is made by the same instructions: compiled twice, a generator might differ in the
    # last bit, and a rounded draw with it.
    def walk(params: PyTree, number: jax.Array) -> tuple[PyTree, jax.Array]:
        index, move = number // 3, number % 3
        times = jnp.where(move == 1, -2.0, 1.0).astype(jnp.float32)
        params = kept_at(directions.moved_on_grid(params, index, smoothing, times), shardings)
        losses = jax.lax.cond(
            move < 2,
            lambda params: _losses(loss_fn, params, batch),
            lambda params: nothing,
            params,
        )
        return params, losses

    params, losses = jax.lax.scan(walk, params, jnp.arange(3 * directions.number))
    both = losses.reshape(directions.number, 3, len(mask))[:, :2]
    # That of the start comes with the directions: read here, it would cost a copy of parameters.
    assert directions.fingerprint is not None
    is_restored: jax.Array = fingerprint(params) == directions.fingerprint
    return _clipped(both, rule, smoothing, grid, mask), params, is_restored


def _checked(
    loss_fn: Callable[[PyTree, PyTree], jax.Array],
    directions: Directions,
    smoothing: float,
    params: PyTree,
    batch: PyTree,
    mask: jax.Array,
) -> jax.Array:
    """Checks what the loss is given, and returns the mask as `(B,)` bool."""
    batch_size = checked_batch_size(batch)
    if explicit_mesh((params, batch, mask)) is not None:
        raise ValueError(
            "a zeroth-order gradient needs a mesh whose axes are AxisType.Auto, got explicit ones. "
            "Make the mesh with AxisType.Auto"
        )
    mask = checked_mask(mask, batch_size)
    check_params(params)
    loss = jax.eval_shape(loss_fn, params, example_types(batch))
    check_scalar(loss)
    _mention_rounding(directions, loss, smoothing)
    return mask


def _losses(
    loss_fn: Callable[[PyTree, PyTree], jax.Array], params: PyTree, batch: PyTree
) -> jax.Array:
    """The losses of all examples, `(B,)` float32."""
    return jax.vmap(loss_fn, in_axes=(None, 0))(params, batch).astype(jnp.float32)


def _clipped(
    losses: jax.Array, rule: ClippingRule, smoothing: float, grid: Grid, mask: jax.Array
) -> ClippedGrad:
    """Clips and adds up differences, from `(k, 2, B)` losses: those of +z, and of -z."""
    differences = ((losses[:, 0] - losses[:, 1]) / (2 * smoothing)).T
    factors, rows = scale(rule, [jax.vmap(dense_norm)(differences)], (0,), mask)
    # 0 × NaN is NaN: rows that must not count are replaced, not scaled.
    counted = jnp.where(factors > 0, differences, 0.0)
    return ClippedGrad(
        grads=jnp.sum(grid.rounded(factors * counted, rule.clip_norm), axis=0),
        norms=rows.norms,
        losses=jnp.where(mask, jnp.mean(losses, axis=(0, 1)), 0.0),
        counted=rows.counted,
        clipped=rows.clipped,
    )


def _mention_rounding(directions: Directions, loss: jax.ShapeDtypeStruct, smoothing: float) -> None:
    """Logs a warning where parameters or losses have too few digits for such small differences."""
    for what, dtype in (("parameters", directions.narrowest), ("losses", loss.dtype)):
        if jnp.finfo(dtype).eps > jnp.finfo(jnp.float32).eps:
            _log.warning(
                "%s are %s, whose neighbours of 1 are %.0e apart, and smoothing is %.0e: most of a "
                "difference may be lost to rounding. ε is not affected; what is learnt is. Give "
                "float32, or a larger smoothing",
                what,
                jnp.dtype(dtype).name,
                float(jnp.finfo(dtype).eps),
                smoothing,
            )
