"""The options of the promise."""

from __future__ import annotations

import dataclasses

from dpjax.option_checks import CheckedOptions, check_positive


@dataclasses.dataclass(frozen=True)
class Privacy(CheckedOptions):
    """The promise: give either a target epsilon or a noise multiplier.

    Example:
        >>> Privacy(target_epsilon=3.0).clip_norm
        1.0
    """

    target_epsilon: float | None = None
    """The run's total ε; the noise multiplier is calibrated so that it is not exceeded."""
    noise_multiplier: float | None = None
    """Standard deviation of the noise divided by the clip norm."""
    delta: float | None = None
    """δ of the guarantee; default: 1e-5, or n^-1.1 for n training records if that is smaller."""
    clip_norm: float = 1.0
    """L2 norm that the gradient of one record is clipped to."""
    ledger: str | None = None
    """File in which all runs on these training records are put on record, made if there is none;
    the report then has the ε of all of them together. Keep it with the data, as private as that."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        if self.target_epsilon is not None and self.noise_multiplier is not None:
            raise ValueError(
                f"both privacy.target_epsilon={self.target_epsilon} and "
                f"privacy.noise_multiplier={self.noise_multiplier} are given; one follows from the "
                "other, so give one"
            )
        check_positive("privacy.target_epsilon", self.target_epsilon)
        check_positive("privacy.noise_multiplier", self.noise_multiplier)
        check_positive("privacy.clip_norm", self.clip_norm)
        if self.delta is not None and not 0 < self.delta < 1:
            raise ValueError(f"privacy.delta must be between 0 and 1, got {self.delta}")
