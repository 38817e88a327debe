"""What all kinds of canaries are: records with ids, each with a secret on its learnt side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpjax.audit.canaries.coins import check_ids
from dpjax.data import Completions, Conversations, Preferences, Records, TaggedWords, Texts
from dpjax.privatize import RunKey

CanaryRecords = Texts | Completions | Conversations | Records | Preferences | TaggedWords
_RECORD_TYPES: dict[str, type[CanaryRecords]] = {
    cls.__name__: cls
    for cls in (Texts, Completions, Conversations, Records, Preferences, TaggedWords)
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Canaries:
    """Records that may be planted, all of one kind. `repr` shows no text.

    Attributes:
        kind: short name of the maker.
        ids: N different ids.
        records: N records.
        secrets: N texts: what a model learns only from the canary. A completion, a whole text, a
            label, the answer that was preferred, or the tags of all words with blanks between them.
        new_tokens: tokens that a tokenizer must get before it reads the canaries; see
            `canary_tokenizer`.
        source_rows: for canaries drawn from records, their rows there, which must not be used for
            anything else; empty for other kinds.

    Raises:
        ValueError: the lists differ in length, or ids are not different.
    """

    kind: str
    ids: tuple[str, ...]
    records: CanaryRecords
    secrets: tuple[str, ...]
    new_tokens: tuple[str, ...] = ()
    source_rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_ids(self.ids)
        if not len(self.ids) == len(self.records) == len(self.secrets):
            raise ValueError(
                f"ids, records and secrets must be as many, got {len(self.ids)}, "
                f"{len(self.records)} and {len(self.secrets)}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Canaries(kind={self.kind!r}, {len(self)} records)"

    def records_at(self, included: np.ndarray) -> CanaryRecords:
        """Returns the records where `included`, `(N,)` bool, is True."""
        return self.records.take(np.flatnonzero(included))

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields, ready for strict JSON; private."""
        return {
            "kind": self.kind,
            "ids": list(self.ids),
            "record_type": type(self.records).__name__,
            "records": {name: getattr(self.records, name) for name in _fields(self.records)},
            "secrets": list(self.secrets),
            "new_tokens": list(self.new_tokens),
            "source_rows": list(self.source_rows),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Canaries:
        """Returns the canaries that `to_dict` described.

        Raises:
            KeyError, TypeError, ValueError: it does not describe canaries.
        """
        return cls(
            kind=fields["kind"],
            ids=tuple(fields["ids"]),
            records=_RECORD_TYPES[fields["record_type"]](**fields["records"]),
            secrets=tuple(fields["secrets"]),
            new_tokens=tuple(fields["new_tokens"]),
            source_rows=tuple(fields["source_rows"]),
        )


def number_ids(kind: str, num_canaries: int) -> tuple[str, ...]:
    """Returns ids that tell nothing but kind and number.

    Args:
        kind: short name of the maker, or "record" for the rows of a data set.
        num_canaries: how many.

    Raises:
        ValueError: `num_canaries` is not a whole number of at least 1.

    Example:
        >>> number_ids("new-token", 2)
        ('new-token-0001', 'new-token-0002')
    """
    if not isinstance(num_canaries, int) or isinstance(num_canaries, bool) or num_canaries < 1:
        raise ValueError(f"num_canaries must be a whole number of at least 1, got {num_canaries!r}")
    return tuple(f"{kind}-{number:04d}" for number in range(1, num_canaries + 1))


def canary_rng(run_key: RunKey, name: str) -> np.random.Generator:
    """Returns the generator of what a canary holds.

    Args:
        run_key: the secret of the run.
        name: the id of the canary, or its kind for what all of them share.
    """
    key = int.from_bytes(run_key.audit_bytes(f"canary/{name}", 16), "big")
    return np.random.Generator(np.random.Philox(key=key))


def _fields(records: CanaryRecords) -> list[str]:
    # A canary has no owner but itself.
    return [field.name for field in dataclasses.fields(records) if field.name != "owners"]
