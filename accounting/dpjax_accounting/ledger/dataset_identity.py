"""Which data a privacy claim is about."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

from dpjax_accounting.checks import checked_integer, checked_name


@dataclasses.dataclass(frozen=True)
class DatasetIdentity:
    """A hash over all units of a data set, whatever their order, and how many there are.

    The hash is private like the data: whoever knows all units but one can test a guess of that one
    against it. It stays in the ledger and does not go into the privacy report.

    Attributes:
        sha256: 64 hexadecimal digits.
        num_units: at least 1.
        unit: what is counted: "record" or "user".

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range, or `unit` is not known.
    """

    sha256: str
    num_units: int
    unit: str = "record"

    def __post_init__(self) -> None:
        """Checks every field."""
        checked_integer("num_units", self.num_units, minimum=1)
        checked_name("unit", self.unit, ("record", "user"), {})
        digits = self.sha256 if isinstance(self.sha256, str) else ""
        if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise ValueError(f"sha256 must be 64 hexadecimal digits; got {self.sha256!r}.")

    @classmethod
    def of(cls, units: Iterable[bytes], unit: str = "record") -> DatasetIdentity:
        """Returns the identity of the data set made of `units`, each given by its whole content.

        The SHA-256 of every unit is taken, the digests are sorted, and their SHA-256 is the
        identity: equal units count as often as they occur.

        Raises:
            TypeError: if a unit is not bytes.
            ValueError: if there are no units.
        """
        digests = sorted(hashlib.sha256(content).digest() for content in units)
        return cls(hashlib.sha256(b"".join(digests)).hexdigest(), len(digests), unit)
