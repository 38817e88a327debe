"""What training may do to canaries, as channels from coins to scores whose ε is known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

Scores = NDArray[np.float64]
Coins = NDArray[np.bool_]
_EVENT_EPSILON = 0.612


@dataclasses.dataclass(frozen=True)
class Channel:
    """One channel.

    Attributes:
        name: for tables.
        epsilon: the ε that it satisfies at δ = 0; at δ = 1e-5 it is less by at most 2e-5. For the
            Gaussian channel, at δ = 1e-5.
        mu: of the least leaky Gaussian release whose trade-off function lies below the channel's.
        draw: scores (m,) from a generator and coins (m,).
    """

    name: str
    epsilon: float
    mu: float
    draw: Callable[[np.random.Generator, Coins], Scores]


def null_channel() -> Channel:
    """Returns noise alone."""
    return Channel("null", 0.0, 0.0, lambda rng, coins: rng.normal(size=len(coins)))


def gaussian_channel(epsilon: float, mu: float) -> Channel:
    """Returns an independent Gaussian measurement of each coin, as of orthogonal gradients.

    Args:
        epsilon: of μ at δ = 1e-5.
        mu: sensitivity / noise.
    """
    return Channel(
        f"Gaussian, ε = {epsilon:g}",
        epsilon,
        mu,
        lambda rng, coins: rng.normal(size=len(coins)) + mu * coins,
    )


def randomised_response(epsilon: float) -> Channel:
    """Returns every coin, wrong with probability 1 / (1 + e^ε), independently.

    Args:
        epsilon: at least 0.
    """
    return Channel(
        f"randomised response, ε = {epsilon:g}",
        epsilon,
        2 * float(special.ndtri(special.expit(epsilon))),
        lambda rng, coins: _randomise(rng, coins, epsilon),
    )


def shared_event(share: float) -> Channel:
    """Returns randomised response at ε = 0.612 in some runs and noise alone in the others.

    Each canary alone is as safe as under a Gaussian release of small μ (0.268 if the share is 6 %,
    which is ε = 1 at δ = 1e-5), but all of them leak in the same runs.

    Args:
        share: of the runs in which they leak.
    """
    right, wrong = special.expit(_EVENT_EPSILON), special.expit(-_EVENT_EPSILON)
    mu = special.ndtri(share * right) - special.ndtri(share * wrong)

    def draw(rng: np.random.Generator, coins: Coins) -> Scores:
        if rng.random() < share:
            return _randomise(rng, coins, _EVENT_EPSILON)
        return rng.normal(size=len(coins))

    return Channel(f"event in {share:.0%} of runs", _EVENT_EPSILON, float(mu), draw)


def _randomise(rng: np.random.Generator, coins: Coins, epsilon: float) -> Scores:
    is_wrong = rng.random(len(coins)) < 1 / (1 + math.exp(epsilon))
    # The noise orders equal answers.
    return (coins ^ is_wrong) + rng.uniform(0.0, 0.5, size=len(coins))
