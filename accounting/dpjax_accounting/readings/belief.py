"""A Bayesian reading: what somebody believes who held it for even odds that a unit took part."""

from __future__ import annotations

import math

from dpjax_accounting.engine.privacy_loss import check_delta
from dpjax_accounting.mechanisms.mechanism import Mechanism
from dpjax_accounting.readings.gaussian_bound import gaussian_mu

# Which share of δ is left to the profile; the rest pays for the step to single outputs.
_SHARES = (0.02, 0.2, 0.5)


def posterior_belief(mechanism: Mechanism, delta: float) -> float:
    """Returns a bound on the posterior belief that a unit took part, from a prior of 1/2.

    It holds for all outputs but some of probability at most `delta`, with the unit or without, and
    for the belief that it did not take part. A loss of at most ε gives at most 1 / (1 + e^−ε)
    (Lee and Clifton 2011, "How Much Is Enough? Choosing ε for Differential Privacy"). The ε here is
    that of single outputs, P[loss > ε] ≤ δ, which (ε, δ)-differential privacy does not give with
    the same ε and δ (Kasiviswanathan and Smith 2014, "On the 'Semantics' of Differential Privacy").
    For a Gaussian it is μ²/2 + μ Φ⁻¹(1 − δ), exactly. Otherwise, since

        δ(ε′) = E[max(0, 1 − e^(ε′ − loss))] ≥ (1 − e^(ε′ − ε)) P[loss > ε],

    it is at most ε(sδ) − log(1 − s) for every share s; the least of three is taken.

    Args:
        mechanism: any mechanism.
        delta: the probability of the exceptional outputs, between 0 and 1, at least 1e-23.

    Returns:
        from 1/2, nothing learnt, to 1.

    Raises:
        TypeError: if `delta` is not a number.
        ValueError: as for :meth:`Mechanism.epsilon`.
    """
    return 1 / (1 + math.exp(-_epsilon_of_outputs(mechanism, check_delta(delta))))


def best_guess_accuracy(mechanism: Mechanism) -> float:
    """Returns how often the best guess whether a unit took part is right, from a prior of 1/2.

    (1 + max(TPR − FPR)) / 2 over all tests, and that maximum is δ at ε = 0, the total variation
    distance (Wasserman and Zhou 2010, "A Statistical Framework for Differential Privacy";
    membership advantage: Yeom et al. 2018). An average over outputs, without exceptions. Exact
    without sampling, otherwise an upper bound.

    Raises:
        ValueError: as for :meth:`Mechanism.delta`.
    """
    return (1 + min(mechanism.delta(0.0), 1.0)) / 2


def _epsilon_of_outputs(mechanism: Mechanism, delta: float) -> float:
    """Returns an ε that the loss exceeds with probability `delta` at most."""
    from scipy.special import ndtri

    mu = gaussian_mu(mechanism)
    if mu is not None:
        return max(0.0, mu**2 / 2 - mu * float(ndtri(delta)))
    if mechanism.delta(0.0) == 0:
        return 0.0
    return min(mechanism.epsilon(share * delta) - math.log1p(-share) for share in _SHARES)
