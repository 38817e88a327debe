"""DP-SGD whose noise or batch size changes during the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from dpjax_accounting.checks import (
    checked_batch_size,
    checked_integer,
    checked_positive,
    nearest,
    set_fields,
)
from dpjax_accounting.engine.privacy_loss import Releases, check_noise
from dpjax_accounting.engine.releases import Release, poisson
from dpjax_accounting.mechanisms.stepwise import Stepwise, checked_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """Successive steps with the same parameters.

    Attributes:
        expected_batch_size: mean number of units per step, above 0 and at most `num_units`.
        noise_multiplier: noise standard deviation / clip norm of these steps, above 0.
        num_steps: at least 0.
    """

    expected_batch_size: float
    noise_multiplier: float
    num_steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPSGDSchedule(Stepwise):
    """DP-SGD with Poisson sampling in segments, each with its own batch size and noise.

    Otherwise it is :class:`DPSGD`. The schedule is fixed beforehand, not chosen by looking at the
    data. ε follows from the composition of all steps.

    Attributes:
        num_units: number of privacy units in the training data, at least 1.
        segments: at least one, in the order of the run.
        unit: "record".
        neighboring: "add_or_remove_one", "zero_out" or "replace_one".

    Example:
        >>> from dpjax_accounting import DPSGDSchedule, Segment
        >>> large = Segment(expected_batch_size=100, noise_multiplier=8.0, num_steps=30)
        >>> small = Segment(expected_batch_size=50, noise_multiplier=6.0, num_steps=10)
        >>> run = DPSGDSchedule(num_units=1000, segments=(large, small))
        >>> run.num_steps
        40
        >>> round(run.epsilon(delta=1e-5), 3)
        0.253
    """

    name: ClassVar[str] = "dpsgd_schedule"

    num_units: int
    segments: tuple[Segment, ...]
    unit: str = "record"
    neighboring: str = "add_or_remove_one"

    def __post_init__(self) -> None:
        """Checks every field."""
        super().__post_init__()
        if not isinstance(self.segments, list | tuple) or not self.segments:
            raise ValueError(
                f"segments must be a tuple of at least one Segment; got {self.segments!r}."
            )
        segments = tuple(_checked(segment, self.num_units) for segment in self.segments)
        set_fields(self, segments=segments)

    @property
    def num_steps(self) -> int:
        """The number of steps of all segments."""
        return sum(segment.num_steps for segment in self.segments)

    def after(self, step: int) -> DPSGDSchedule:
        """Returns the schedule stopped after `step` steps, as for :meth:`Stepwise.after`."""
        left = checked_step(step, self.num_steps)
        begun = []
        for segment in self.segments:
            begun.append(dataclasses.replace(segment, num_steps=min(left, segment.num_steps)))
            left -= begun[-1].num_steps
            if left == 0:
                break
        return dataclasses.replace(self, segments=tuple(begun))

    def segment_at(self, step: int) -> Segment:
        """Returns the segment of `step`, the first step being 0.

        Raises:
            TypeError: if `step` is not an integer.
            ValueError: if the schedule has no step of this number.
        """
        left = checked_integer("step", step, minimum=0)
        for segment in self.segments:
            if left < segment.num_steps:
                return segment
            left -= segment.num_steps
        raise ValueError(f"step must be below num_steps={self.num_steps}; got {step}.")

    def releases(self) -> Releases:
        """Returns the Poisson-sampled Gaussian of every segment with its number of steps."""
        segments = (segment for segment in self.segments if segment.num_steps)
        return tuple((self._release(segment), segment.num_steps) for segment in segments)

    def _release(self, segment: Segment) -> Release:
        check_noise(segment.noise_multiplier)
        probability = segment.expected_batch_size / self.num_units
        return poisson(probability, segment.noise_multiplier, self.neighboring)


def _checked(segment: object, num_units: int) -> Segment:
    if isinstance(segment, Mapping):
        known = [field.name for field in dataclasses.fields(Segment)]
        for name in segment:
            if name not in known:
                raise ValueError(f"A segment has no field {name!r}.{nearest(str(name), known)}")
        missing = [name for name in known if name not in segment]
        if missing:
            raise ValueError(f"A segment lacks {', '.join(missing)}.")
        segment = Segment(**segment)
    if not isinstance(segment, Segment):
        raise TypeError(f"segments must hold Segments; got {segment!r}.")
    return Segment(
        expected_batch_size=checked_batch_size(segment.expected_batch_size, num_units),
        noise_multiplier=checked_positive("noise_multiplier", segment.noise_multiplier),
        num_steps=checked_integer("num_steps", segment.num_steps, minimum=0),
    )
