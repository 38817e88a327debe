"""Clipped sums without per-example gradients: one backward pass that keeps, or two that do not.

`one_backward` keeps the operands of every weight gradient until the clip factors are known (book-keeping: Bu
et al. 2023, arXiv:2210.00038). `two_backwards` takes norms where the operands arise, forgets them, and goes
back a second time (ghost clipping: Li et al. 2022, arXiv:2110.05679). Both read the same program of one
example's gradient, so that norm and sum come from the same numbers whatever the model's custom rules do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.privatize.materialize import clip_factors
from dpjax.privatize.structured import norms
from dpjax.privatize.structured.cost import DEFAULT_BUDGET_VALUES, Budget
from dpjax.privatize.structured.gradient import GradientProgram, gradient_program
from dpjax.privatize.structured.moves import apply_moves
from dpjax.privatize.structured.per_example import PerExample
from dpjax.privatize.structured.pieces import Piece
from dpjax.privatize.structured.requests import norm_request, pieces_request, sum_request
from dpjax.privatize.structured.sums import sum_over_batch
from dpjax.privatize.structured.evaluate import values_request

PyTree = Any


def one_backward(loss_fn: Callable, clip_norm: float, has_aux: bool) -> Callable:
    """Returns `clip(params, batch, mask) -> (grads, norms, losses, aux)`; memory: all operands."""

    def clip(params: PyTree, batch: PyTree, mask: jax.Array) -> tuple:
        gradient = _trace(loss_fn, has_aux, params, batch)
        budget = Budget(DEFAULT_BUDGET_VALUES, mask.shape[0])
        requests = [
            values_request([gradient.loss, *gradient.aux]),
            *(pieces_request(terms) for terms in gradient.terms),
        ]
        examples = PerExample(gradient, params, batch, requests)
        first, *pieces = examples.evaluate(requests)
        norm = jax.vmap(lambda all_pieces: norms.hypot([norms.norm(p, budget) for p in all_pieces]))
        factors, seen = _clip(norm(pieces), clip_norm, mask)
        grads = [
            _sum_of_pieces(factors, terms, leaf.shape)
            for terms, leaf in zip(pieces, gradient.params, strict=True)
        ]
        return _result(gradient, grads, seen, first, mask)

    return clip


def two_backwards(loss_fn: Callable, clip_norm: float, has_aux: bool) -> Callable:
    """Returns `clip(params, batch, mask) -> (grads, norms, losses, aux)`; memory of a step."""

    def clip(params: PyTree, batch: PyTree, mask: jax.Array) -> tuple:
        gradient = _trace(loss_fn, has_aux, params, batch)
        budget = Budget(DEFAULT_BUDGET_VALUES, mask.shape[0])
        requests = [norm_request(terms, budget) for terms in gradient.terms]
        outputs = values_request([gradient.loss, *gradient.aux])
        examples = PerExample(gradient, params, batch, [outputs, *requests])
        first = examples.run_forward(outputs, requests)
        per_parameter = examples.evaluate(requests)
        per_example = jax.vmap(norms.hypot)(jnp.stack(per_parameter, axis=1))
        factors, seen = _clip(per_example, clip_norm, mask)
        # The second pass waits for the norms: otherwise the compiler would see that both passes
        # compute the same, and keep everything in between.
        factors = examples.wait_for(factors)
        grads = examples.evaluate_sums(
            lambda factor: [
                sum_request(terms, factor, leaf.shape)
                for terms, leaf in zip(gradient.terms, gradient.params, strict=True)
            ],
            factors,
        )
        return _result(gradient, grads, seen, first, mask)

    return clip


def _trace(loss_fn: Callable, has_aux: bool, params: PyTree, batch: PyTree) -> GradientProgram:
    example = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), batch
    )
    return gradient_program(loss_fn, has_aux, params, example)


def _clip(per_example: jax.Array, clip_norm: float, mask: jax.Array) -> tuple:
    seen = jnp.where(mask, per_example, 0.0)
    return clip_factors(seen, clip_norm, mask), seen


def _sum_of_pieces(
    factors: jax.Array, pieces: Sequence[Piece], shape: tuple[int, ...]
) -> jax.Array:
    total = jnp.zeros(shape, jnp.float32)
    for piece in pieces:
        one = sum_over_batch(factors, piece.arrays, piece.form)
        total = total + apply_moves(piece.form.moves, one)
    return total


def _result(
    gradient: GradientProgram,
    grads: list[jax.Array],
    seen: jax.Array,
    first: list[jax.Array],
    mask: jax.Array,
) -> tuple:
    loss, *aux = first
    losses = jnp.where(mask, loss.astype(jnp.float32), 0.0)
    tree = jax.tree.unflatten(gradient.params_tree, grads)
    return tree, seen, losses, jax.tree.unflatten(gradient.aux_tree, aux)
