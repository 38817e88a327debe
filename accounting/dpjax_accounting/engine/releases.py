"""One noisy release, as the two dominating pairs that the accountants work with.

Here, and only here, a neighbouring relation becomes a sensitivity. With noise of standard deviation
σ·C and contributions of norm at most C, a unit that is added, removed or zeroed moves the sum by C
at most, one that is replaced by 2C. In a batch of a fixed size it also takes the place of another
unit. docs/accounting/proofs.md proves that with sampling opposite directions are the worst case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dpjax_accounting.engine.laplace import LaplacePair
from dpjax_accounting.engine.pairs import MixturePair

# More noise counts as this much, which can only raise ε.
LARGEST_NOISE_MULTIPLIER = 1e6

RELATIONS = ("add_or_remove_one", "replace_one", "zero_out")

Pair = MixturePair | LaplacePair
# A loss that is drawn from one of several pairs, each with its probability, and it is known which.
Blend = tuple[tuple[float, Pair], ...]


@dataclasses.dataclass(frozen=True)
class Release:
    """The dominating pairs of one release.

    Attributes:
        removed: data with the unit against data without it (or with the other unit).
        added: the reverse.
    """

    removed: Blend
    added: Blend


def gaussian(noise_multiplier: float, neighboring: str) -> Release:
    """Returns the release of a sum of all units with noise; exact for every relation."""
    return sampled(((1.0, 1.0),), noise_multiplier, neighboring)


def poisson(probability: float, noise_multiplier: float, neighboring: str) -> Release:
    """Returns the release of a Poisson-sampled sum.

    Its pairs for a unit added, removed or zeroed are those of Zhu, Dong and Wang 2022, theorem 11:
    (1 − q) N(0, σ²) + q N(1, σ²) against N(0, σ²), and the reverse.
    """
    if probability == 1:
        return gaussian(noise_multiplier, neighboring)
    return sampled(((1 - probability, 0.0), (probability, 1.0)), noise_multiplier, neighboring)


def poisson_laplace(probability: float, noise_multiplier: float) -> Release:
    """Returns the release of a Poisson-sampled sum of numbers with Laplace noise.

    A unit that is added, removed or zeroed moves the sum by the clip norm C at most, and
    (L(1), L(0)) dominates the sum of all units with noise of scale noise_multiplier × C. Its pairs
    with sampling are those of Zhu, Dong and Wang 2022, theorem 11.
    """
    scale = min(noise_multiplier, LARGEST_NOISE_MULTIPLIER)
    removed = _alone(LaplacePair(probability, scale, is_present=True))
    if probability == 1:
        # The other direction is the same pair, moved.
        return Release(removed, removed)
    return Release(removed, _alone(LaplacePair(probability, scale, is_present=False)))


def without_replacement(probability: float, noise_multiplier: float, neighboring: str) -> Release:
    """Returns the release of a sum over a uniformly random subset of a fixed size.

    With `probability` the unit takes the place of another one: from what is there without it, the
    sum moves by 2C at most, and by as much with the unit that replaces it, or by C if that
    contributes nothing. Opposite directions are the worst case (docs/accounting/proofs.md). If the
    draws are known, the sum moves by 2C or C only; that is a bound as well, and is taken from the
    probability on from which it is the smaller one for steps that lose little.

    Args:
        probability: size of the subset / number of units.
        noise_multiplier: noise standard deviation / clip norm.
        neighboring: "zero_out" or "replace_one".
    """
    here, there, known = {"replace_one": (2.0, 2.0, 2.0), "zero_out": (2.0, 1.0, 1.0)}[neighboring]
    if probability * (here + there) >= known:
        return gaussian(noise_multiplier, neighboring)
    noise = min(noise_multiplier, LARGEST_NOISE_MULTIPLIER)

    def moved(by: float) -> tuple[tuple[float, float], ...]:
        return ((1 - probability, 0.0), (probability, by / noise))

    return Release(
        _alone(MixturePair(moved(here), moved(-there))),
        _alone(MixturePair(moved(there), moved(-here))),
    )


def sampled(
    contributions: Sequence[tuple[float, float]], noise_multiplier: float, neighboring: str
) -> Release:
    """Returns the release of a sum to which a unit contributes a random multiple of the clip norm.

    For a unit added, removed or zeroed: Ganesh 2024, "Tight Group-Level DP Guarantees for DP-SGD
    with Sampling via Mixture of Gaussians Mechanisms", theorem 3.1, and corollary 4.7 of
    Choquette-Choo et al. 2024, "Privacy Amplification for Matrix Mechanisms", from vectors to
    numbers. For one that is replaced: docs/accounting/proofs.md.

    Args:
        contributions: (probability, sensitivity in clip norms) of every possibility.
        noise_multiplier: noise standard deviation / clip norm.
        neighboring: "add_or_remove_one", "zero_out" or "replace_one".
    """
    noise = min(noise_multiplier, LARGEST_NOISE_MULTIPLIER)
    present = tuple((weight, size / noise) for weight, size in contributions)
    mirrored = tuple((weight, -mean) for weight, mean in present)
    absent = ((1.0, 0.0),)
    if neighboring == "replace_one":
        replaced = _alone(MixturePair(present, mirrored))
        return Release(replaced, replaced)
    removed = _alone(MixturePair(present, absent))
    if len(present) == 1:
        return Release(removed, removed)
    return Release(removed, _alone(MixturePair(absent, mirrored)))


def _alone(pair: Pair) -> Blend:
    return ((1.0, pair),)


def blended(parts: Sequence[tuple[float, Release]]) -> Release:
    """Returns the release that is one of several, chosen with these probabilities and known."""
    return Release(
        tuple((weight * w, pair) for weight, r in parts for w, pair in r.removed),
        tuple((weight * w, pair) for weight, r in parts for w, pair in r.added),
    )
