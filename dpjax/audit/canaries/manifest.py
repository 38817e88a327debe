"""The manifest of an audit: what was fixed before training, and may be shown to anybody."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from dpjax.audit.canaries.coins import FAIR, check_ids
from dpjax.audit.canaries.sealing import sha256_of
from dpjax.basics.option_checks import did_you_mean

SCHEMA_VERSION = 1
COINS_FILE = "private/coins.json"
RECORDS_FILE = "private/canaries.json"
_DESIGNS = {True: "fair-coins", False: "coins"}
_DIGITS = frozenset("0123456789abcdef")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an audit has fixed before training. It shows neither a coin nor a text.

    Attributes:
        kind: short name of the canaries, or "hold-out" for records left out by coins.
        ids: N different ids, one coin each.
        probability_out: the probability that a coin says "out".
        fixed_seed: whether the coins come from a seed that somebody chose.
        coins_commitment: of ids and coins; 64 hexadecimal digits.
        records_commitment: of the canaries' texts, or None where coins split real records.
    """

    kind: str
    ids: tuple[str, ...]
    probability_out: float
    fixed_seed: bool
    coins_commitment: str
    records_commitment: str | None

    def __post_init__(self) -> None:
        check_ids(self.ids)
        if not isinstance(self.kind, str) or not isinstance(self.fixed_seed, bool):
            raise ValueError("kind must be a text and fixed_seed true or false")
        is_number = isinstance(self.probability_out, float) and math.isfinite(self.probability_out)
        if not (is_number and 0 < self.probability_out < 1):
            raise ValueError(
                f"probability_out must be between 0 and 1, got {self.probability_out!r}"
            )
        for digest in (self.coins_commitment, self.records_commitment):
            if digest is not None and not _is_digest(digest):
                raise ValueError("a commitment must be 64 hexadecimal digits")

    @property
    def is_fair(self) -> bool:
        """Whether the coins are fair, on which certified bounds rest."""
        return self.probability_out == FAIR

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON of everything else; note it elsewhere before training."""
        return sha256_of(self._body())

    def to_dict(self) -> dict[str, Any]:
        """Returns the manifest as it is written, its hash included, ready for strict JSON."""
        return self._body() | {"sha256": self.sha256}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Manifest:
        """Returns the manifest that `to_dict` described.

        Raises:
            ValueError: a field is missing, unknown or of the wrong kind, two fields contradict each
                other, or the hash is another.
        """
        if not isinstance(fields, Mapping) or fields.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"schema_version must be {SCHEMA_VERSION}")
        try:
            records = fields["records"]
            manifest = cls(
                kind=fields["kind"],
                ids=tuple(fields["ids"]),
                probability_out=fields["probability_out"],
                fixed_seed=fields["fixed_seed"],
                coins_commitment=fields["coins"]["commitment"],
                records_commitment=None if records is None else records["commitment"],
            )
        except KeyError as error:
            raise ValueError(f"{error.args[0]} is missing") from None
        except TypeError:
            raise ValueError("a field is of the wrong kind") from None
        written = manifest.to_dict()
        for name, value in fields.items():
            if name not in written:
                raise ValueError(f"there is no field {name!r}.{did_you_mean(name, written)}")
            if value != written[name]:
                raise ValueError(f"{name} does not fit the other fields")
        if fields.keys() != written.keys():
            raise ValueError(f"{min(written.keys() - fields.keys())} is missing")
        return manifest

    def _body(self) -> dict[str, Any]:
        records = {"commitment": self.records_commitment, "file": RECORDS_FILE}
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "design": _DESIGNS[self.is_fair],
            "probability_out": self.probability_out,
            "fixed_seed": self.fixed_seed,
            "num": len(self.ids),
            "ids": list(self.ids),
            "coins": {"commitment": self.coins_commitment, "file": COINS_FILE},
            "records": None if self.records_commitment is None else records,
        }


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and _DIGITS.issuperset(value)
