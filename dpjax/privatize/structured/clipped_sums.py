"""Clipped sums without per-example gradients: one backward pass that keeps, or two that do not.

`one_backward` keeps the operands of every weight gradient until the clip factors are known
(book-keeping: Bu et al. 2023, arXiv:2210.00038). `two_backwards` takes norms where the operands
arise, forgets them, and goes back a second time (ghost clipping: Li et al. 2022, arXiv:2110.05679).
Both read the same program of one example's gradient, so that norm and sum come from the same
numbers whatever the model's custom rules do. `auto` estimates which is cheapest.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax.basics.typing import Clip, PyTree
from dpjax.privatize.devices.room import Room
from dpjax.privatize.devices.varying import example_types
from dpjax.privatize.materialize import materialize
from dpjax.privatize.rules.clipping_rules import ClippingRule, RowStatistics, leaf_groups, scale
from dpjax.privatize.structured.costs.choice import choose
from dpjax.privatize.structured.costs.methods import DEFAULT_BUDGET_VALUES, Budget, kept_formed
from dpjax.privatize.structured.costs.notices import mention_dense_terms
from dpjax.privatize.structured.gradient import GradientProgram, gradient_program
from dpjax.privatize.structured.norms.sums import without
from dpjax.privatize.structured.per_example import PerExample
from dpjax.privatize.structured.program.evaluate import values_request
from dpjax.privatize.structured.program.jaxpr import UnreadableProgramError
from dpjax.privatize.structured.program.versions import check_version
from dpjax.privatize.structured.requests import (
    KeptSum,
    norm_and_pieces_request,
    norm_request,
    num_stacking_loops,
    sum_request,
    take_sums,
)
from dpjax.privatize.structured.self_check import compare_strategies

_log = logging.getLogger(__name__)


def one_backward(
    loss_fn: Callable[..., Any], rule: ClippingRule, has_aux: bool, room: Room | None = None
) -> Clip:
    """Returns `clip(params, batch, mask) -> (grads, rows, losses, aux)`; memory: all operands."""
    return _or_materialize(loss_fn, rule, has_aux, "one_backward", room)


def two_backwards(
    loss_fn: Callable[..., Any], rule: ClippingRule, has_aux: bool, room: Room | None = None
) -> Clip:
    """Returns `clip(params, batch, mask) -> (grads, rows, losses, aux)`; memory of a step."""
    return _or_materialize(loss_fn, rule, has_aux, "two_backwards", room)


def auto(
    loss_fn: Callable[..., Any], rule: ClippingRule, has_aux: bool, room: Room | None = None
) -> Clip:
    """Returns `clip(params, batch, mask) -> (grads, rows, losses, aux)` by the cheapest way."""
    return _or_materialize(loss_fn, rule, has_aux, "auto", room)


def _or_materialize(
    loss_fn: Callable[..., Any], rule: ClippingRule, has_aux: bool, name: str, room: Room | None
) -> Clip:
    """A strategy by name; `materialize`, with a warning, where a program cannot be taken apart."""

    def clip(params: PyTree, batch: PyTree, mask: jax.Array) -> tuple[Any, ...]:
        try:
            check_readable()
            clip_batch = clip_structured(loss_fn, rule, has_aux, room, name=name)
            return clip_batch(params, batch, mask)
        except UnreadableProgramError as error:
            warnings.warn(
                f"computing every per-example gradient (strategy materialize): {error}",
                stacklevel=2,
            )
            return materialize(loss_fn, rule, has_aux)(params, batch, mask)

    return clip


def check_readable() -> None:
    """Raises UnreadableProgramError if programs of this version of JAX are misread here."""
    check_version(_self_check)


def _self_check() -> str | None:
    names = ("one_backward", "two_backwards")
    structured = {name: functools.partial(clip_structured, name=name) for name in names}
    return compare_strategies(materialize, structured)


def clip_structured(
    loss_fn: Callable[..., Any],
    rule: ClippingRule,
    has_aux: bool,
    room: Room | None = None,
    *,
    name: str,
) -> Clip:
    """The same for any version of JAX.

    `clip` raises UnreadableProgramError where the program cannot be taken apart.
    """

    def clip(params: PyTree, batch: PyTree, mask: jax.Array) -> tuple[Any, ...]:
        gradient = gradient_program(loss_fn, has_aux, params, example_types(batch))
        shared = room or Room()
        at_once = shared.examples_at_once(mask.shape[0])
        chosen = name
        if name == "auto":
            choice = choose(gradient, at_once, shared.known_device_memory())
            _log.info("%s", choice)
            chosen = choice.strategy
        if chosen == "materialize":
            return materialize(loss_fn, rule, has_aux)(params, batch, mask)
        mention_dense_terms(gradient, params)
        sums = {"one_backward": _one_backward, "two_backwards": _two_backwards}[chosen]
        return sums(_Task(gradient, rule, params, batch, mask, at_once))

    return clip


class _Task(NamedTuple):
    """What is to be summed up, and how many examples a device has in memory at once."""

    gradient: GradientProgram
    rule: ClippingRule
    params: PyTree
    batch: PyTree
    mask: jax.Array
    at_once: int


def _one_backward(task: _Task) -> tuple[Any, ...]:
    gradient, rule, params, batch, mask, at_once = task
    budget = Budget(DEFAULT_BUDGET_VALUES, at_once)
    kept = kept_formed(gradient.terms, at_once)
    requests = [
        values_request([gradient.loss, *gradient.aux]),
        *(
            norm_and_pieces_request(gradient.program, terms, budget, kept)
            for terms in gradient.terms
        ),
    ]
    outputs, *norms_and_pieces = PerExample(gradient, params, batch, requests).evaluate(requests)
    unused = jnp.zeros(mask.shape, jnp.float32)
    leaf_norms = [norm if pieces else unused for norm, pieces in norms_and_pieces]
    groups = leaf_groups(rule, params)
    factors, rows = scale(rule, leaf_norms, groups, mask)
    depths = [num_stacking_loops(terms) for terms in gradient.terms]
    all_pieces = [
        jax.tree.map(lambda x, depth=depth: jnp.moveaxis(x, 0, depth), pieces)
        for depth, (_, pieces) in zip(depths, norms_and_pieces, strict=True)
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


def _two_backwards(task: _Task) -> tuple[Any, ...]:
    gradient, rule, params, batch, mask, at_once = task
    budget = Budget(DEFAULT_BUDGET_VALUES, at_once)
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


def _finite(
    all_pieces: list[PyTree], depths: Sequence[int], leaf_norms: Sequence[jax.Array]
) -> list[PyTree]:
    """The pieces, with zeros in place of examples that have a norm that is not finite.

    A loop that is hardly ever entered: unlike a selection it makes no copy of what it passes on.
    """
    if not leaf_norms:
        return all_pieces

    def zeroed(all_pieces: list[PyTree], broken: jax.Array) -> list[PyTree]:
        return [
            without(broken, pieces, depth) for pieces, depth in zip(all_pieces, depths, strict=True)
        ]

    @jax.custom_jvp
    def replaced(all_pieces: list[PyTree], broken: jax.Array) -> list[PyTree]:
        start = (jnp.any(broken), all_pieces)
        step = lambda state: (state[0] & False, zeroed(state[1], broken))  # noqa: E731
        return jax.lax.while_loop(lambda state: state[0], step, start)[1]

    @replaced.defjvp
    def derivative(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, ...]:
        # A loop cannot be differentiated in reverse; the selection that it stands for can.
        return replaced(*primals), zeroed(tangents[0], primals[1])

    return replaced(all_pieces, ~jnp.all(jnp.isfinite(jnp.stack(leaf_norms)), axis=0))


def _result(
    gradient: GradientProgram,
    grads: list[jax.Array],
    rows: RowStatistics,
    outputs: list[jax.Array],
    mask: jax.Array,
) -> tuple[Any, ...]:
    loss, *aux = outputs
    losses = jnp.where(mask, loss.astype(jnp.float32), 0.0)
    tree = jax.tree.unflatten(gradient.params_tree, grads)
    return tree, rows, losses, jax.tree.unflatten(gradient.aux_tree, aux)
