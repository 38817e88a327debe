"""DP-SGD with batches of a fixed size drawn without replacement."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from dpjax_accounting.engine.pairs import Array
from dpjax_accounting.engine.privacy_loss import check_noise
from dpjax_accounting.engine.releases import Release, without_replacement
from dpjax_accounting.mechanisms.other_samplings.public_size import PublicSize
from dpjax_accounting.mechanisms.stepwise import RepeatedStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedSizeDPSGD(PublicSize, RepeatedStep):
    """DP-SGD whose every batch is a uniformly random subset of `batch_size` units.

    It loses far more privacy than Poisson sampling with the same noise, by what is known: ε of 11
    where Poisson sampling has 1.4. A unit that is drawn takes the place of another one, so that the
    sum moves by twice the clip norm even where its own contribution is bounded by one. The pair of
    :func:`~dpjax_accounting.engine.releases.without_replacement` dominates a step whatever happened
    in the steps before, and so composes (proof in docs/accounting/proofs.md). It is not tight, and
    need not be: the data that are the worst case of a step need not be that of a composition
    (Lebeda, Regehr, Kamath and Steinke 2024, "Avoiding Pitfalls for Privacy Accounting of
    Subsampled Mechanisms under Composition", who also show how far Poisson sampling and this can be
    apart).

    Attributes:
        num_units: number of privacy units, at least 1; public.
        batch_size: units per step, at least 1 and at most `num_units`.
        noise_multiplier: noise standard deviation / clip norm, above 0, whatever the relation.
        num_steps: number of noisy releases, at least 0.
        unit: "record".
        neighboring: "replace_one" or "zero_out".
    """

    name: ClassVar[str] = "fixed_size_dpsgd"
    refused_relations: ClassVar[Mapping[str, str]] = {
        "add_or_remove_one": "a batch of a fixed size always holds another unit in place of the one"
        " that is absent",
    }

    num_units: int
    batch_size: int
    noise_multiplier: float
    num_steps: int
    unit: str = "record"
    neighboring: str = "replace_one"

    def _step(self) -> Release:
        """Returns the step in which one unit takes another's place."""
        check_noise(self.noise_multiplier)
        q = self.batch_size / self.num_units
        return without_replacement(q, self.noise_multiplier, self.neighboring)

    def rdp(self, orders: Array) -> Array:
        """Returns `num_steps` times a bound on one step, as for :meth:`Mechanism.rdp`.

        It does not rest on the pair of :meth:`releases`, and is looser. It is the same for both
        relations: a unit that is zeroed is one that is replaced by one without contribution.
        """
        if self.batch_size == self.num_units:
            return super().rdp(orders)
        check_noise(self.noise_multiplier)
        # The sensitivity of the sum is twice the clip norm.
        step = _rdp_without_replacement(
            self.batch_size / self.num_units, self.noise_multiplier / 2, orders
        )
        return self.num_steps * step


def _rdp_without_replacement(q: float, noise_multiplier: float, orders: Array) -> Array:
    """Returns the Rényi divergence of one step.

    Wang, Balle and Kasiviswanathan 2019, "Subsampled Rényi Differential Privacy and Analytical
    Moments Accountant", theorem 9 at integer orders, and by convexity of (α − 1)·RDP between them
    (corollary 10).

    Args:
        q: batch size / number of units, below 1.
        noise_multiplier: noise standard deviation / sensitivity under replacement.
        orders: above 1.
    """
    integers = np.unique(np.concatenate([np.floor(orders), np.ceil(orders)]))
    cumulants = [_log_moment_without_replacement(q, noise_multiplier, int(n)) for n in integers]
    return np.interp(orders, integers, cumulants) / (orders - 1)


def _log_moment_without_replacement(q: float, noise_multiplier: float, order: int) -> float:
    """Returns (α − 1)·RDP(α) at an integer order α; 0 at α = 1."""
    from scipy import special

    if order == 1:
        return 0.0
    j = np.arange(2, order + 1)
    log_binomial = (
        special.gammaln(order + 1) - special.gammaln(j + 1) - special.gammaln(order - j + 1)
    )
    # e^{(j − 1) RDP(j)} of the Gaussian, and with an unbounded loss the smaller of the two is 2.
    log_terms = math.log(2) + j * (j - 1) / (2 * noise_multiplier**2)
    second = 1 / noise_multiplier**2
    log_terms[0] = min(log_terms[0], math.log(4) + second + math.log(-math.expm1(-second)))
    return float(np.logaddexp.reduce([0.0, *(j * math.log(q) + log_binomial + log_terms)]))
