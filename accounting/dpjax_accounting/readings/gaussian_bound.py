"""Gaussian differential privacy, and zero-concentrated differential privacy, of a mechanism."""

from __future__ import annotations

import dataclasses
import math

from dpjax_accounting.engine.privacy_loss import check_delta
from dpjax_accounting.mechanisms.mechanism import Mechanism
from dpjax_accounting.readings.profile import profile_points


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianBound:
    """A μ such that a mechanism is as private as one Gaussian release, and where that holds.

    Attributes:
        mu: sensitivity / noise standard deviation of that release.
        largest_epsilon: δ(ε) ≤ δ of the Gaussian for every ε from 0 to here; infinite where the
            mechanism is Gaussian.
        smallest_delta: δ(largest_epsilon); 0 where the mechanism is Gaussian.
    """

    mu: float
    largest_epsilon: float
    smallest_delta: float

    @property
    def is_exact(self) -> bool:
        """Whether the mechanism is that Gaussian: μ-GDP without a range."""
        return self.smallest_delta == 0


class NotGaussian(ValueError):
    """A quantity is asked for that only mechanisms without sampling have."""


def gaussian_mu(mechanism: Mechanism) -> float | None:
    """Returns the μ of a mechanism that is a composition of Gaussians alone; None for any other.

    μ² is the sum of (sensitivity / noise standard deviation)² (Dong, Roth and Su 2022,
    corollary 3.3; numbers of arXiv:1905.02383).
    """
    releases = mechanism.releases()
    if releases is None:
        return None
    square = 0.0
    for release, count in releases:
        for blend in (release.removed, release.added):
            if len(blend) > 1 or not blend[0][1].is_gaussian:
                return None
        square += count * release.removed[0][1].distance ** 2
    return math.sqrt(square)


def gaussian_dp(mechanism: Mechanism, delta: float) -> GaussianBound:
    """Returns the smallest μ whose Gaussian release bounds the privacy profile down to `delta`.

    μ-Gaussian differential privacy (Dong, Roth and Su 2022, "Gaussian Differential Privacy",
    definition 2.6; numbers of arXiv:1905.02383) is δ(ε) ≤ Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ) for
    every ε (corollary 2.13). Mechanisms without sampling are Gaussian, and their μ is exact. With
    sampling no useful μ holds for every ε, because the largest losses are those of a step without
    sampling: here it is shown for 0 ≤ ε ≤ ε(`delta`), not by a central limit theorem, which is no
    bound.

    δ(ε) is convex in e^ε and thus at most its chords between 48 computed points. In terms of tests
    a chord is a corner of the region that they bound, and G_μ is concave and so above the region
    wherever it is above all corners. μ is the largest Φ⁻¹(TPR) − Φ⁻¹(FPR) of a corner: never too
    small for the computed profile. Of Gaussians with μ up to 13, computed in this way, it is at
    most 1 % too large. It takes as long as 48 times :meth:`Mechanism.delta`.

    Args:
        mechanism: any mechanism.
        delta: down to which the profile is bounded, at least 1e-25.

    Raises:
        TypeError: if `delta` is not a number.
        ValueError: as for :meth:`Mechanism.epsilon`, or if outputs are told apart so nearly always
            that no μ can be computed.
    """
    from scipy.special import ndtri

    delta = check_delta(delta)
    mu = gaussian_mu(mechanism)
    if mu is not None:
        return GaussianBound(mu=mu, largest_epsilon=math.inf, smallest_delta=0.0)
    points = profile_points(mechanism, delta)
    fpr, tpr = points.corners()
    half = (1 + points.deltas[0]) / 2
    if max(half, tpr.max(initial=0.0)) >= 1:
        raise ValueError(
            f"No mu bounds this profile: its delta at epsilon = 0 comes out as"
            f" {points.deltas[0]:.6g}, so that tests of membership are hardly limited. Raise the"
            " noise multiplier or take fewer steps; a mechanism accounted for by Rényi divergences"
            " may need the fuller answer of its profile."
        )
    # A corner without false positives comes from two points of the profile that are the same.
    corners = fpr > 0
    mus = ndtri(tpr[corners]) - ndtri(fpr[corners])
    largest = max(2 * float(ndtri(half)), float(mus.max(initial=0.0)))
    return GaussianBound(
        mu=largest,
        largest_epsilon=float(points.epsilons[-1]),
        smallest_delta=float(points.deltas[-1]),
    )


def zcdp_rho(mechanism: Mechanism) -> float:
    """Returns the ρ of ρ-zero-concentrated differential privacy of a mechanism without sampling.

    ρ = μ²/2, and no smaller one holds (Bun and Steinke 2016, "Concentrated Differential Privacy:
    Simplifications, Extensions, and Lower Bounds", proposition 1.6 and lemma 1.7 for the
    composition).

    Raises:
        NotGaussian: for any other mechanism.
    """
    mu = gaussian_mu(mechanism)
    if mu is None:
        raise NotGaussian(
            f"{type(mechanism).__name__} has no useful rho: zCDP bounds the Rényi divergence at"
            " every order by rho times the order, and at large orders sampling gains nothing. Use"
            " its rdp or epsilon."
        )
    return mu**2 / 2
