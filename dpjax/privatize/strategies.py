"""The ways to compute a clipped sum, by name.

A strategy is a function `(loss_fn, rule, has_aux, room) -> clip`, where
`clip(params, batch, mask) -> (grads, rows, losses, aux)` handles one microbatch at once, and `room`
says what else is in the memory of a device; `rows` are `RowStatistics`. Its output has the meaning
of the fields of `ClippedGrad`, and equals that of "materialize".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpjax.basics.option_checks import did_you_mean
from dpjax.privatize.materialize import materialize
from dpjax.privatize.structured.clipped_sums import auto, one_backward, two_backwards

STRATEGIES: dict[str, Callable[..., Callable[..., Any]]] = {
    "auto": auto,
    "materialize": materialize,
    "one_backward": one_backward,
    "two_backwards": two_backwards,
}


def strategy_named(name: str) -> Callable[..., Callable[..., Any]]:
    """Looks a strategy up.

    Raises:
        ValueError: there is none of that name; names the nearest.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"strategy must be one of {sorted(STRATEGIES)}, got {name!r}."
            + did_you_mean(name, STRATEGIES)
        )
    return STRATEGIES[name]
