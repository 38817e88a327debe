"""Whether guesses refute the claim that training is (ε, δ)-DP by a given mechanism."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from dpjax_accounting import Mechanism

from dpjax.audit.bounds.curves import MechanismCurves
from dpjax.audit.bounds.from_scores import is_rejected_by_a_step, joint_p_value
from dpjax.audit.bounds.guesses import Guesses


class Claim(NamedTuple):
    """What training is claimed to be, and how many canaries test it.

    Attributes:
        num_canaries: m, with a fair coin each.
        epsilon: at least 0.
        delta: in [0, 1).
        mechanism: that training is claimed to be, if known.
    """

    num_canaries: int
    epsilon: float
    delta: float
    mechanism: Mechanism | None


class ClaimTest:
    """A test of one claim, with one level for all of it.

    Without a mechanism it is whether the certified bound exceeds the claimed ε. With one, either
    that or the mechanism's own trade-off function being rejected refutes the claim, each at half
    the level. Both hold for every training procedure that the claim is right about.

    Attributes:
        confidence_of_each: 1 − the level of each of the tests.
    """

    def __init__(self, claim: Claim, *, significance: float) -> None:
        """Prepares the test.

        Args:
            claim: what is tested.
            significance: how often a right claim may be refuted.
        """
        self._claim, mechanism = claim, claim.mechanism
        self._level = significance if mechanism is None else significance / 2
        self.confidence_of_each = 1 - self._level
        self._curve = None if mechanism is None else MechanismCurves(mechanism).least_probability(1)
        self._step_rejects = functools.cache(self._rejects)

    def refutes(self, guesses: Sequence[Guesses]) -> bool:
        """Returns whether the guesses of a plan's steps refute the claim."""
        return self.exceeds_epsilon(guesses) or self.rejects_curve(guesses)

    def exceeds_epsilon(self, guesses: Sequence[Guesses]) -> bool:
        """Returns whether the certified bound is above the claimed ε."""
        p_value = joint_p_value(
            guesses,
            num_canaries=self._claim.num_canaries,
            epsilon=self._claim.epsilon,
            delta=self._claim.delta,
            significance=self._level,
        )
        return p_value < self._level

    def rejects_curve(self, guesses: Sequence[Guesses]) -> bool:
        """Returns whether the mechanism's own trade-off function is rejected."""
        return any(self._step_rejects(step, len(guesses)) for step in guesses)

    def _rejects(self, step: Guesses, num_steps: int) -> bool:
        if self._curve is None:
            return False
        return is_rejected_by_a_step(
            self._curve,
            [step],
            num_canaries=self._claim.num_canaries,
            significance=self._level / num_steps,
        )
