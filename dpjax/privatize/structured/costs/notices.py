"""Says once, for each large parameter without known structure, what that will cost and why."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import jax

from dpjax.privatize.structured.gradient import GradientProgram
from dpjax.privatize.structured.terms.roots import Dense, LoopOutput, Terms

_log = logging.getLogger(__name__)
_LARGE = 2**16
# Less than this share of all values is not worth a word, such as the scales of stacked layers.
_SHARE = 0.01
_mentioned: set[tuple[str, str]] = set()


def mention_dense_terms(gradient: GradientProgram, params: Any) -> None:
    """Logs a warning for each large matrix whose per-example gradients are formed.

    Only where all parameters of which they are formed have a notable share of the values.
    """
    formed = [
        leaf.size
        for leaf, terms in zip(gradient.params, gradient.terms, strict=True)
        if any(_dense_reasons(terms))
    ]
    if sum(formed) < _SHARE * sum(leaf.size for leaf in gradient.params):
        return
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for name, leaf, terms in zip(names, gradient.params, gradient.terms, strict=True):
        if leaf.size < _LARGE or len(leaf.shape) < 2:
            continue
        for reason in dict.fromkeys(_dense_reasons(terms)):
            if (name, reason) not in _mentioned:
                _mentioned.add((name, reason))
                _log.warning(
                    "params%s %s: the gradient comes out of %s, whose structure is not known; its "
                    "%s values are formed for every example. Correct, but it costs memory: a "
                    "smaller microbatch_size helps",
                    name,
                    leaf.shape,
                    reason,
                    f"{leaf.size:,}",
                )


def _dense_reasons(terms: Terms) -> Iterator[str]:
    for root, _ in terms:
        if isinstance(root, Dense):
            yield root.reason
        elif isinstance(root, LoopOutput):
            yield from _dense_reasons(root.terms)
