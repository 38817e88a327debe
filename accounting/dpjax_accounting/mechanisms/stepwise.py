"""Mechanisms that take place in steps, and stop before the last."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Self

from dpjax_accounting.checks import checked_integer
from dpjax_accounting.engine.privacy_loss import Releases
from dpjax_accounting.engine.releases import Release
from dpjax_accounting.mechanisms.mechanism import Mechanism


class Stepwise(Mechanism):
    """A mechanism in `num_steps` steps, whose first ones are a mechanism of the same kind."""

    if TYPE_CHECKING:
        # A field, or the sum of those of segments.
        @property
        def num_steps(self) -> int: ...  # noqa: D102

    @property
    def says_its_steps(self) -> bool:
        """Whether the number of steps is known: a field that no ε depends on may be missing."""
        return True

    def after(self, step: int) -> Self:
        """Returns the same mechanism stopped after `step` steps; 0 means that nothing was released.

        Raises:
            TypeError: if `step` is not an integer.
            ValueError: if `step` is negative or beyond `num_steps`.
        """
        return dataclasses.replace(self, num_steps=checked_step(step, self.num_steps))


class InEpochs(Stepwise):
    """A mechanism in epochs of equally many steps, of which whole epochs are accounted for.

    What an unfinished epoch has released is a part of what the whole one releases, and costs no
    more: it counts as the whole one.
    """

    if TYPE_CHECKING:
        num_epochs: int

        # A field, or what follows from the sizes of data and batches.
        @property
        def batches_per_epoch(self) -> int: ...  # noqa: D102

    @property
    def num_steps(self) -> int:
        """The number of steps of all epochs."""
        return self.num_epochs * self.batches_per_epoch

    def after(self, step: int) -> Self:
        """Returns the epochs that are begun after `step` steps, as for :meth:`Stepwise.after`."""
        begun = -(-checked_step(step, self.num_steps) // self.batches_per_epoch)
        return dataclasses.replace(self, num_epochs=begun)


class RepeatedStep(Stepwise):
    """A mechanism whose every step is the same noisy release."""

    def releases(self) -> Releases:
        """Returns the release of one step, `num_steps` times."""
        return ((self._step(), self.num_steps),) if self.num_steps else ()

    @abc.abstractmethod
    def _step(self) -> Release:
        """Returns the release of one step; raises where its noise is too little to account for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoissonBatches(Stepwise):
    """A mechanism that reads a Poisson-sampled batch of the units in every step.

    Attributes:
        num_units: number of privacy units in the training data, at least 1.
        expected_batch_size: mean number of units per step, above 0 and at most `num_units`.
        noise_multiplier: noise standard deviation / clip norm, above 0.
        num_steps: number of noisy releases, at least 0.
    """

    num_units: int
    expected_batch_size: float
    noise_multiplier: float
    num_steps: int

    @property
    def sampling_probability(self) -> float:
        """The probability that a given unit takes part in a given step."""
        return self.expected_batch_size / self.num_units


def num_steps_of(mechanism: Mechanism) -> int | None:
    """Returns how many steps `mechanism` has; None where it has none, or does not say."""
    if not isinstance(mechanism, Stepwise) or not mechanism.says_its_steps:
        return None
    return mechanism.num_steps


def checked_step(step: object, num_steps: int) -> int:
    """Returns `step` as a Python int from 0 to `num_steps`, or raises."""
    number = checked_integer("step", step, minimum=0)
    if number > num_steps:
        raise ValueError(f"step={number} lies beyond the last one: num_steps={num_steps}.")
    return number


def stopped_after(mechanism: Mechanism, num_steps: int) -> Mechanism:
    """Returns what `mechanism` released in its first `num_steps` steps, as a mechanism.

    Raises:
        TypeError: if `num_steps` is not an integer.
        ValueError: if it is negative or beyond the last step, or the mechanism has no steps: then
            it counts in full.
    """
    if isinstance(mechanism, Stepwise) and mechanism.says_its_steps:
        return mechanism.after(num_steps)
    raise ValueError(f"A {mechanism.name!r} mechanism has no steps: it counts in full.")
