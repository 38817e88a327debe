"""The options of certified steps."""

from __future__ import annotations

import dataclasses

from dpjax_accounting import FullBatch, calibrate_noise_of

from dpjax.basics.option_checks import CheckedOptions, check_at_least, check_positive
from dpjax.unlearning.certified.noisy_steps import MOST_STEPS, SMALLEST, NoisySteps

_REQUIRED = ("start_norm", "gradient_norm", "learning_rate", "num_steps", "delta")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certified(CheckedOptions):
    """Certified steps, for method=noisy_descent alone: choose all without the forget set.

    Example:
        >>> options = Certified(
        ...     start_norm=1.0,
        ...     gradient_norm=0.5,
        ...     learning_rate=0.1,
        ...     num_steps=20,
        ...     target_epsilon=3.0,
        ...     delta=1e-5,
        ... )
        >>> options.to_steps().epsilon(1e-5) <= 3.0
        True
    """

    start_norm: float | None = None
    """C₀: all trained parameters, as one vector from zero, are clipped to this norm, before the
    first step and after each."""
    gradient_norm: float | None = None
    """C₁: the mean gradient of a step is clipped to this norm."""
    learning_rate: float | None = None
    """η of these steps, which are plain gradient descent."""
    num_steps: int | None = None
    """T."""
    weight_decay: float = 0.0
    """λ: each step first scales the parameters by 1 − η λ."""
    noise_stddev: float | None = None
    """s: standard deviation of the noise of a step on each parameter, not times η; or give
    target_epsilon."""
    target_epsilon: float | None = None
    """ε that the noise is chosen for, at most 100; or give noise_stddev."""
    delta: float | None = None
    """δ of the certificate; far below 1 over the number of records."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        for name in ("start_norm", "learning_rate", "noise_stddev", "target_epsilon"):
            check_positive(f"certified.{name}", getattr(self, name))
        for name, value in (
            ("gradient_norm", self.gradient_norm),
            ("weight_decay", self.weight_decay),
        ):
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"certified.{name} must be at least 0 and finite, got {value}")
        for name in ("start_norm", "noise_stddev"):
            value = getattr(self, name)
            if value is not None and value < SMALLEST:
                raise ValueError(
                    f"certified.{name} must be at least {SMALLEST:g}, got {value:g}: float32 would "
                    "round what the certificate rests on to zero"
                )
        check_at_least("certified.num_steps", self.num_steps, 1)
        if self.num_steps is not None and self.num_steps > MOST_STEPS:
            raise ValueError(
                f"certified.num_steps must be at most {MOST_STEPS:,}, got {self.num_steps:,}"
            )
        if self.delta is not None and not 0 < self.delta < 1:
            raise ValueError(f"certified.delta must be above 0 and below 1, got {self.delta}")
        if self.noise_stddev is not None and self.target_epsilon is not None:
            raise ValueError(
                "certified.noise_stddev and certified.target_epsilon both say how much noise there "
                "is: give one of them"
            )

    def check_complete(self) -> None:
        """Raises ValueError if something is missing: there are no defaults for what is promised."""
        missing = [name for name in _REQUIRED if getattr(self, name) is None]
        if self.noise_stddev is None and self.target_epsilon is None:
            missing.append("target_epsilon")
        if missing:
            raise ValueError(
                "method=noisy_descent needs "
                + ", ".join(f"certified.{name}" for name in missing)
                + ": the certificate depends on each. Choose them without looking at the forget set"
            )

    def to_steps(self) -> NoisySteps:
        """Returns the steps, with noise for `target_epsilon` if that was given.

        μ is in proportion to 1 / s, so s follows from one Gaussian release with that ε.

        Raises:
            ValueError: something is missing, or the target cannot be met.
        """
        self.check_complete()
        assert self.start_norm is not None and self.gradient_norm is not None
        assert self.learning_rate is not None and self.num_steps is not None
        assert self.delta is not None
        steps = NoisySteps(
            start_norm=self.start_norm,
            gradient_norm=self.gradient_norm,
            learning_rate=self.learning_rate,
            noise_stddev=1.0 if self.noise_stddev is None else self.noise_stddev,
            num_steps=self.num_steps,
            weight_decay=self.weight_decay,
        )
        if self.target_epsilon is None:
            return steps
        if steps.mu == 0:
            raise ValueError(
                "certified.target_epsilon needs no noise here: with learning_rate times "
                "weight_decay = 1 and gradient_norm = 0 nothing of the adapter is left. Give "
                "smaller weight_decay, or the base itself to whoever asks"
            )
        release = FullBatch(noise_multiplier=1.0, num_steps=1)
        release = calibrate_noise_of(release, self.target_epsilon, self.delta)
        return dataclasses.replace(steps, noise_stddev=steps.mu * release.noise_multiplier)
