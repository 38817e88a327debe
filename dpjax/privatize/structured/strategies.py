"""Clipped sums without per-example gradients: one backward pass that keeps, or two that do not.

`one_backward` keeps the operands of every weight gradient until the clip factors are known
(book-keeping: Bu et al. 2023, arXiv:2210.00038). `two_backwards` takes norms where the operands
arise, forgets them, and goes back a second time (ghost clipping: Li et al. 2022, arXiv:2110.05679).
Both read the same program of one example's gradient, so that norm and sum come from the same
numbers whatever the model's custom rules do. `auto` estimates which is cheapest.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.privatize.materialize import materialize
from dpjax.privatize.rules import ClippingRule, RowStatistics, leaf_groups, scale
from dpjax.privatize.structured.cost import choose
from dpjax.privatize.structured.evaluate import values_request
from dpjax.privatize.structured.gradient import GradientProgram, gradient_program
from dpjax.privatize.structured.methods import DEFAULT_BUDGET_VALUES, Budget, kept_formed
from dpjax.privatize.structured.notices import mention_dense_terms
from dpjax.privatize.structured.per_example import PerExample
from dpjax.privatize.structured.program import UnknownLayoutError
from dpjax.privatize.structured.requests import (
    KeptSum,
    norm_and_pieces_request,
    norm_request,
    num_stacking_loops,
    sum_request,
    take_sums,
)
from dpjax.privatize.structured.sums import without

PyTree = Any
Clip = Callable[[PyTree, PyTree, jax.Array], tuple]


def one_backward(loss_fn: Callable, rule: ClippingRule, has_aux: bool) -> Clip:
    """Returns `clip(params, batch, mask) -> (grads, rows, losses, aux)`; memory: all operands."""
    return _structured(loss_fn, rule, has_aux, lambda *_: "one_backward")


def two_backwards(loss_fn: Callable, rule: ClippingRule, has_aux: bool) -> Clip:
    """Returns `clip(params, batch, mask) -> (grads, rows, losses, aux)`; memory of a step."""
    return _structured(loss_fn, rule, has_aux, lambda *_: "two_backwards")


def auto(loss_fn: Callable, rule: ClippingRule, has_aux: bool) -> Clip:
    """Returns `clip(params, batch, mask) -> (grads, rows, losses, aux)` by the cheapest way."""
    return _structured(loss_fn, rule, has_aux, choose)


def _structured(
    loss_fn: Callable,
    rule: ClippingRule,
    has_aux: bool,
    pick: Callable[[GradientProgram, int], str],
) -> Clip:
    def clip(params: PyTree, batch: PyTree, mask: jax.Array) -> tuple:
        try:
            gradient = gradient_program(loss_fn, has_aux, params, _one_example(batch))
        except UnknownLayoutError as error:
            warnings.warn(
                f"computing every per-example gradient (strategy materialize): {error}",
                stacklevel=2,
            )
            return materialize(loss_fn, rule, has_aux)(params, batch, mask)
        name = pick(gradient, mask.shape[0])
        if name == "materialize":
            return materialize(loss_fn, rule, has_aux)(params, batch, mask)
        mention_dense_terms(gradient, params)
        sums = {"one_backward": _one_backward, "two_backwards": _two_backwards}[name]
        return sums(gradient, rule, params, batch, mask)

    return clip


def _one_backward(
    gradient: GradientProgram, rule: ClippingRule, params: PyTree, batch: PyTree, mask: jax.Array
) -> tuple:
    budget = Budget(DEFAULT_BUDGET_VALUES, mask.shape[0])
    kept = kept_formed(gradient.terms, mask.shape[0])
    requests = [
        values_request([gradient.loss, *gradient.aux]),
        *(
            norm_and_pieces_request(gradient.program, terms, budget, kept)
            for terms in gradient.terms
        ),
    ]
    outputs, *found = PerExample(gradient, params, batch, requests).evaluate(requests)
    unused = jnp.zeros(mask.shape, jnp.float32)
    leaf_norms = [norm if pieces else unused for norm, pieces in found]
    groups = leaf_groups(rule, params)
    factors, rows = scale(rule, leaf_norms, groups, mask)
    depths = [num_stacking_loops(terms) for terms in gradient.terms]
    all_pieces = [
        jax.tree.map(lambda x, depth=depth: jnp.moveaxis(x, 0, depth), pieces)
        for depth, (_, pieces) in zip(depths, found, strict=True)
    ]
    all_pieces = _finite(all_pieces, depths, leaf_norms)
    grads = take_sums(
        [
            KeptSum(terms, factors[:, group], pieces, leaf.shape)
            for terms, group, pieces, leaf in zip(
                gradient.terms, groups, all_pieces, gradient.params, strict=True
            )
        ]
    )
    return _result(gradient, grads, rows, outputs, mask)


def _two_backwards(
    gradient: GradientProgram, rule: ClippingRule, params: PyTree, batch: PyTree, mask: jax.Array
) -> tuple:
    budget = Budget(DEFAULT_BUDGET_VALUES, mask.shape[0])
    requests = [norm_request(gradient.program, terms, budget) for terms in gradient.terms]
    forward = values_request([gradient.loss, *gradient.aux])
    examples = PerExample(gradient, params, batch, [forward, *requests])
    outputs = examples.run_forward(forward, requests)
    groups = leaf_groups(rule, params)
    leaf_norms = examples.evaluate_norms(requests, outputs[0])
    factors, rows = scale(rule, leaf_norms, groups, mask)
    grads = examples.evaluate_sums(
        lambda factor: [
            sum_request(terms, factor[group], leaf.shape)
            for terms, group, leaf in zip(gradient.terms, groups, gradient.params, strict=True)
        ],
        factors,
    )
    return _result(gradient, grads, rows, outputs, mask)


def _one_example(batch: PyTree) -> PyTree:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), batch
    )


def _finite(
    all_pieces: list[PyTree], depths: Sequence[int], leaf_norms: Sequence[jax.Array]
) -> list[PyTree]:
    """The pieces, with zeros in place of examples that have a norm that is not finite.

    A loop that is hardly ever entered: unlike a selection it makes no copy of what it passes on.
    """
    if not leaf_norms:
        return all_pieces
    broken = ~jnp.all(jnp.isfinite(jnp.stack(leaf_norms)), axis=0)

    def replace(state: tuple) -> tuple:
        zeroed = [without(broken, own, depth) for own, depth in zip(state[1], depths, strict=True)]
        return jnp.zeros((), bool), zeroed

    return jax.lax.while_loop(lambda state: state[0], replace, (jnp.any(broken), all_pieces))[1]


def _result(
    gradient: GradientProgram,
    grads: list[jax.Array],
    rows: RowStatistics,
    outputs: list[jax.Array],
    mask: jax.Array,
) -> tuple:
    loss, *aux = outputs
    losses = jnp.where(mask, loss.astype(jnp.float32), 0.0)
    tree = jax.tree.unflatten(gradient.params_tree, grads)
    return tree, rows, losses, jax.tree.unflatten(gradient.aux_tree, aux)
