"""Several mechanisms on the same data."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from dpjax_accounting.checks import checked_integer
from dpjax_accounting.engine.pairs import Array
from dpjax_accounting.engine.privacy_loss import Releases
from dpjax_accounting.engine.releases import Release
from dpjax_accounting.mechanisms.mechanism import Mechanism


@dataclasses.dataclass(frozen=True)
class Composition(Mechanism):
    """The adaptive composition of several mechanisms that read the same data.

    Parameters and number of the mechanisms are fixed beforehand; what they compute (model, loss,
    clip norm, data order) may depend on what earlier ones released. Where parameters were chosen by
    looking at results, see docs/guide/ledger.md. Compositions among them are replaced by their
    parts. Equal mechanisms are counted, not repeated: 10⁵ equal ones cost no more than one.

    Attributes:
        mechanisms: at least one, all with the same privacy unit and neighbouring relation; after
            construction each different one once.
        counts: how often each takes place, by default once.

    Raises:
        TypeError: if an element is not a mechanism, or a count not an integer.
        ValueError: if there is no mechanism, a count is below 1 or too many or few, or units or
            neighbouring relations differ: no guarantee covers both.

    Example:
        >>> from dpjax_accounting import Composition, FullBatch
        >>> run = FullBatch(noise_multiplier=8.0, num_steps=3)
        >>> round(run.epsilon(1e-5), 3), round(Composition((run, run)).epsilon(1e-5), 3)
        (0.791, 1.157)
    """

    name: ClassVar[str] = "composition"

    mechanisms: tuple[Mechanism, ...]
    _: dataclasses.KW_ONLY
    counts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Flattens, counts and checks."""
        if not isinstance(self.mechanisms, list | tuple):
            raise TypeError(
                f"mechanisms must be a tuple of mechanisms; got {type(self.mechanisms).__name__}."
            )
        given = tuple(self.mechanisms)
        if not given:
            raise ValueError("A composition needs at least one mechanism; got none.")
        counts = (1,) * len(given) if self.counts is None else tuple(self.counts)
        if len(counts) != len(given):
            raise ValueError(
                f"counts must hold one number for each of the {len(given)} mechanisms; got"
                f" {len(counts)}."
            )
        merged: dict[Mechanism, int] = {}
        for mechanism, count in zip(given, counts, strict=True):
            count = checked_integer("counts", count, minimum=1)
            for part, times in _parts(mechanism):
                merged[part] = merged.get(part, 0) + count * times
        object.__setattr__(self, "mechanisms", tuple(merged))
        object.__setattr__(self, "counts", tuple(merged.values()))
        for name in ("unit", "neighboring"):
            values = sorted({getattr(mechanism, name) for mechanism in merged})
            if len(values) > 1:
                raise ValueError(
                    f"Mechanisms with different {name} cannot be composed: got"
                    f" {' and '.join(map(repr, values))}. Describe all of them with the same one."
                )

    @property
    def unit(self) -> str:
        """The privacy unit of every part."""
        return self.mechanisms[0].unit

    @property
    def neighboring(self) -> str:
        """The neighbouring relation of every part."""
        return self.mechanisms[0].neighboring

    def releases(self) -> Releases | None:
        """Returns the releases of all parts; None if those of one are not known."""
        total: dict[Release, int] = {}
        for mechanism, count in self._counted():
            releases = mechanism.releases()
            if releases is None:
                return None
            for release, times in releases:
                total[release] = total.get(release, 0) + times * count
        return tuple(total.items())

    def rdp(self, orders: Array) -> Array:
        """Returns the sum of the parts' Rényi divergences (Mironov 2017, proposition 1)."""
        parts = [count * mechanism.rdp(orders) for mechanism, count in self._counted()]
        total: Array = np.sum(parts, axis=0)
        return total

    def _counted(self) -> tuple[tuple[Mechanism, int], ...]:
        counts = () if self.counts is None else self.counts
        return tuple(zip(self.mechanisms, counts, strict=True))


def _parts(mechanism: Mechanism) -> tuple[tuple[Mechanism, int], ...]:
    if isinstance(mechanism, Composition):
        return mechanism._counted()
    if not isinstance(mechanism, Mechanism):
        raise TypeError(
            f"mechanisms must hold mechanisms; got {mechanism!r} ({type(mechanism).__name__})."
        )
    return ((mechanism, 1),)
