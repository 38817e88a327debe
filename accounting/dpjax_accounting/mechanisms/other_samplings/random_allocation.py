"""DP-SGD in which every unit is put into one random batch of every epoch (balls and bins)."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dpjax_accounting.engine.answer_cache import remembered
from dpjax_accounting.engine.pairs import Array
from dpjax_accounting.engine.privacy_loss import check_delta, check_noise, checked_epsilon
from dpjax_accounting.engine.releases import LARGEST_NOISE_MULTIPLIER
from dpjax_accounting.mechanisms.mechanism import NoRenyiDivergence
from dpjax_accounting.mechanisms.other_samplings.full_batch import FullBatch
from dpjax_accounting.mechanisms.stepwise import InEpochs

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

# Per epoch: the tails that are cut, which count as an infinite loss, and an allowance for the
# round-off of the transform that composes the epochs. Tails and round-off together were found to
# raise δ, by 5e-15 per epoch.
_TAIL = 1e-14
_ROUND_OFF = 1e-14
_SMALLEST_DELTA = 1e-13
# The grid of one batch's loss; it is halved until ε at this δ changes by less than a share of it.
_FEWEST_POINTS = 1000
_REFERENCE_DELTA = 1e-5
_SETTLED_SHARE = 0.02
_SETTLED = 1e-3
_USEFUL_SHARE = 0.1
_USEFUL = 1e-2
# Pairs of grid points that are added up, at about 1e-8 s each.
_MOST_WORK = 7e9
# In standard deviations, where the tails of one batch's loss are cut at most.
_FARTHEST = 9.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomAllocationDPSGD(InEpochs):
    """DP-SGD in which every unit takes part in one step of each epoch, drawn at random for it.

    Every epoch has `batches_per_epoch` steps, and each unit is put into one of their batches
    uniformly at random, independently of the other units and epochs; the choice stays secret. The
    size of a batch is random. Batches of equal size cut from a shuffled order are not this: there
    the other units tell where one is, and :class:`ShuffledDPSGD` holds.

    An epoch is dominated by the pair of (1/t) Σ N(eᵢ, σ²I) and N(0, σ²I) in t dimensions (Chua et
    al. 2025, "Balls-and-Bins Sampling for DP-SGD", theorem 3.1; Feldman and Shenfeld 2025, "Privacy
    Amplification by Random Allocation"). Its loss is computed by the package PLD_accounting
    (Feldman and Shenfeld 2026, "Efficient Privacy Loss Accounting for Subsampling and Random
    Allocation"), as an upper bound, and never exceeds that without amplification. It is no figure
    for Poisson sampling, nor is one of Poisson sampling for this.

    Attributes:
        num_units: number of privacy units in the training data, at least 1.
        batches_per_epoch: t, at least 1.
        noise_multiplier: noise standard deviation / clip norm, above 0.
        num_epochs: at least 0.
        unit: "record".
        neighboring: "add_or_remove_one" or "zero_out", which have the same ε.
    """

    name: ClassVar[str] = "random_allocation_dpsgd"
    relations: ClassVar[tuple[str, ...]] = ("add_or_remove_one", "zero_out")
    refused_relations: ClassVar[Mapping[str, str]] = {
        "replace_one": "a bound is known for a unit that is present or not, or without"
        " contribution",
    }

    num_units: int
    batches_per_epoch: int
    noise_multiplier: float
    num_epochs: int
    unit: str = "record"
    neighboring: str = "add_or_remove_one"

    @property
    def expected_batch_size(self) -> float:
        """The mean number of units in a batch."""
        return self.num_units / self.batches_per_epoch

    def releases(self) -> None:
        """Returns None: the pair of an epoch has one dimension for every batch."""

    @property
    def accountant(self) -> str:
        """What ε and δ rest on: "pld"."""
        return "pld"

    def rdp(self, orders: Array) -> Array:
        """Refuses: no Rényi divergence of random allocation is implemented."""
        raise NoRenyiDivergence(
            "No Rényi divergence of random allocation is implemented, and it cannot be part of a"
            " composition or a search: describe more epochs by num_epochs, or the epochs as"
            " ShuffledDPSGD, which bounds them without amplification."
        )

    def epsilon(self, delta: float) -> float:
        """Returns an upper bound on ε at `delta`, as for :meth:`Mechanism.epsilon`.

        Args:
            delta: between 0 and 1, at least 1e-13 × `num_epochs`.

        Raises:
            TypeError: if `delta` is not a number.
            ValueError: if `delta` is out of range, or the loss too large to account for or not
                known within a tenth of ε after about a minute's work.
            ImportError: if PLD_accounting is not installed.
        """
        delta = check_delta(delta)
        unamplified = self.unamplified.epsilon(delta)
        if self._is_unamplified or unamplified == 0:
            return unamplified
        smallest = _SMALLEST_DELTA * self.num_epochs
        if delta < smallest:
            raise ValueError(
                f"delta={delta:g} is too small for the round-off of {self.num_epochs} epochs of"
                f" random allocation: the smallest supported one is {smallest:g}. ShuffledDPSGD"
                " bounds them at any delta, without amplification."
            )
        return min(unamplified, remembered(self, "epsilon", delta, self._amplified_epsilon))

    def rough_epsilon(self, delta: float) -> float:
        """Returns an upper bound on ε at `delta` that is looser than :meth:`epsilon`, but quick.

        Raises:
            TypeError, ValueError, ImportError: as for :meth:`epsilon`.
        """
        unamplified = self.unamplified.epsilon(check_delta(delta))
        if self._is_unamplified or unamplified == 0:
            return unamplified
        check_noise(self.noise_multiplier)
        noise = min(self.noise_multiplier, LARGEST_NOISE_MULTIPLIER)
        loss = _loss_on_grid(self.batches_per_epoch, noise, self.num_epochs, _FEWEST_POINTS)
        return min(unamplified, _epsilon(loss, delta, self.num_epochs))

    def delta(self, epsilon: float) -> float:
        """Returns an upper bound on δ at `epsilon`, as for :meth:`Mechanism.delta`.

        It is at least 1e-14 × `num_epochs`, unless it is smaller without amplification.

        Raises:
            TypeError: if `epsilon` is not a number.
            ValueError: if `epsilon` is negative or not finite, or as for :meth:`epsilon`.
            ImportError: if PLD_accounting is not installed.
        """
        epsilon = checked_epsilon(epsilon)
        unamplified = self.unamplified.delta(epsilon)
        if self._is_unamplified or unamplified <= _ROUND_OFF * self.num_epochs:
            return unamplified
        return min(unamplified, remembered(self, "delta", epsilon, self._amplified_delta))

    def _amplified_epsilon(self, delta: float) -> float:
        return _epsilon(self._loss(), delta, self.num_epochs)

    def _amplified_delta(self, epsilon: float) -> float:
        amplified = float(self._loss().get_delta_for_epsilon(epsilon))
        return amplified + _ROUND_OFF * self.num_epochs

    @property
    def unamplified(self) -> FullBatch:
        """The same if the batches of the unit are known: one Gaussian release per epoch."""
        return FullBatch(
            noise_multiplier=self.noise_multiplier,
            num_steps=self.num_epochs,
            neighboring=self.neighboring,
        )

    @property
    def _is_unamplified(self) -> bool:
        return self.batches_per_epoch == 1 or self.num_epochs == 0

    def _loss(self) -> PrivacyLossDistribution:
        check_noise(self.noise_multiplier)
        noise = min(self.noise_multiplier, LARGEST_NOISE_MULTIPLIER)
        return _settled_loss(self.batches_per_epoch, noise, self.num_epochs)


def _epsilon(loss: PrivacyLossDistribution, delta: float, num_epochs: int) -> float:
    return float(loss.get_epsilon_for_delta(delta - _ROUND_OFF * num_epochs))


@functools.lru_cache(maxsize=8)
def _settled_loss(batches: int, noise: float, num_epochs: int) -> PrivacyLossDistribution:
    """Returns the loss on the first grid that hardly differs from the one before.

    What rounding to the grid adds to ε is proportional to the grid's interval, and so about as
    large as the last change.
    """
    delta = max(_REFERENCE_DELTA, _SMALLEST_DELTA * num_epochs)
    work = 2.0 * _stages(batches) * _FEWEST_POINTS**2
    points = _FEWEST_POINTS
    loss = _loss_on_grid(batches, noise, num_epochs, points)
    epsilon = _epsilon(loss, delta, num_epochs)
    while True:
        points, work = 2 * points, 4 * work
        if work > _MOST_WORK:
            return loss
        finer = _loss_on_grid(batches, noise, num_epochs, points)
        previous, epsilon = epsilon, _epsilon(finer, delta, num_epochs)
        loss, change = finer, previous - epsilon
        if change <= max(_SETTLED, _SETTLED_SHARE * epsilon):
            return loss
        # The change halves on every grid that can still be afforded.
        left = int(math.log(_MOST_WORK / work, 4))
        if change / 2**left > max(_USEFUL, _USEFUL_SHARE * epsilon):
            raise ValueError(
                f"Random allocation with batches_per_epoch={batches}, noise_multiplier={noise:g}"
                f" and num_epochs={num_epochs} takes too long to account for: losses are rounded up"
                " so often that a minute's work gives no useful epsilon. Take fewer epochs or"
                " larger batches; ShuffledDPSGD bounds it without amplification."
            )


def _loss_on_grid(
    batches: int, noise: float, num_epochs: int, points: int
) -> PrivacyLossDistribution:
    package = _package()
    span = 1 / noise**2 + 2 * _FARTHEST / noise
    return package.gaussian_allocation_pld(
        params=package.PrivacyParams(sigma=noise, num_steps=batches, num_epochs=num_epochs),
        # It divides the interval by the epochs and by the sums within one.
        config=package.AllocationSchemeConfig(
            loss_discretization=span / points * _stages(batches) * num_epochs,
            tail_truncation=_TAIL * num_epochs,
        ),
        bound_type=package.BoundType.DOMINATES,
    )


def _stages(batches: int) -> int:
    """Returns how often a loss is rounded to the grid: once, and in every sum of two of them."""
    one_less = batches - 1
    with_unit = one_less.bit_length() + one_less.bit_count()
    return max(with_unit, batches.bit_length() + batches.bit_count() - 1)


def _package() -> Any:
    try:
        with warnings.catch_warnings():
            # It warns that numba, which is optional, is missing.
            warnings.simplefilter("ignore", ImportWarning)
            import PLD_accounting
    except ImportError as error:
        raise ImportError(
            "Random allocation is accounted for by the package PLD_accounting. Install it with"
            ' pip install "dpjax[allocation]".'
        ) from error
    return PLD_accounting
