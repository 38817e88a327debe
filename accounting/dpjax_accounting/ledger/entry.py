"""What a ledger says about each run: charges and settlements, and the entry they come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from dpjax_accounting.checks import checked_integer, nearest
from dpjax_accounting.ledger.chained_file import TamperedError
from dpjax_accounting.mechanisms.mechanism import Mechanism, mechanism_from_dict
from dpjax_accounting.mechanisms.stepwise import stopped_after


@dataclasses.dataclass(frozen=True)
class LedgerEntry:
    """One run, as it stands.

    Attributes:
        run: its name.
        charged: the mechanism as planned.
        key: identifies the secret of its noise.
        note: for people.
        time: of the first charge, UTC.
        num_steps: the steps that it took; None while it is not settled and counts in full.
    """

    run: str
    charged: Mechanism
    key: str
    note: str
    time: str
    num_steps: int | None = None

    @property
    def mechanism(self) -> Mechanism:
        """What counts: all that was charged, or the steps that were taken."""
        return (
            self.charged if self.num_steps is None else stopped_after(self.charged, self.num_steps)
        )


@dataclasses.dataclass(frozen=True)
class Charge:
    """A run about to start, or to go on."""

    run: str
    mechanism: Mechanism
    key: str
    note: str
    time: str

    def __post_init__(self) -> None:
        """Checks the names: they are what tells runs apart."""
        for name in ("run", "key"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} must be a text that is not empty; got {value!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Returns the line that a ledger gets."""
        return {"kind": "charge", **vars(self), "mechanism": self.mechanism.to_dict()}

    def check_against(self, entries: Mapping[str, LedgerEntry]) -> None:
        """Raises ValueError if this run may not be charged beside `entries`."""
        known = entries.get(self.run)
        if known is not None and (known.charged, known.key) != (self.mechanism, self.key):
            what = "mechanism" if known.key == self.key else "key"
            raise ValueError(
                f"Run {self.run!r} is in the ledger with another {what}. Only the same run may go"
                " on; charge a new one under a name of its own."
            )
        for entry in entries.values():
            if entry.key == self.key and entry.run != self.run:
                raise ValueError(
                    f"Run {entry.run!r} in the ledger has the same key, so both draw the same noise"
                    " and the difference of their results has hardly any: no epsilon covers that."
                    " Use a fresh key, which a run without a fixed seed has."
                )
            _check_same_kind(entry.charged, self.mechanism)

    def applied_to(self, entries: Mapping[str, LedgerEntry]) -> LedgerEntry:
        """Returns the run's entry after this."""
        known = entries.get(self.run)
        if known is not None:
            return dataclasses.replace(known, num_steps=None)
        return LedgerEntry(self.run, self.mechanism, self.key, self.note, self.time)


@dataclasses.dataclass(frozen=True)
class Settlement:
    """A run that ended, or was interrupted, after `num_steps` steps."""

    run: str
    num_steps: int
    time: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the line that a ledger gets."""
        return {"kind": "settle", **vars(self)}

    def check_against(self, entries: Mapping[str, LedgerEntry]) -> None:
        """Raises ValueError if there is no such charge to settle."""
        if self.run not in entries:
            raise ValueError(
                f"Run {self.run!r} is not in the ledger.{nearest(str(self.run), entries)} Charge it"
                " before it starts."
            )
        entry = entries[self.run]
        num_steps = checked_integer("num_steps", self.num_steps, minimum=0)
        if entry.num_steps not in (None, num_steps):
            raise ValueError(
                f"Run {self.run!r} was settled with {entry.num_steps} steps already, not"
                f" {num_steps}. A run that goes on is charged again first."
            )
        stopped_after(entry.charged, num_steps)

    def applied_to(self, entries: Mapping[str, LedgerEntry]) -> LedgerEntry:
        """Returns the run's entry after this."""
        return dataclasses.replace(entries[self.run], num_steps=self.num_steps)


def entries_of(events: Iterable[Mapping[str, Any]]) -> dict[str, LedgerEntry]:
    """Returns the entry of every run that `events`, in their order, come to.

    Raises:
        TamperedError: if an event is not one that a ledger writes, or does not follow from those
            before it.
    """
    entries: dict[str, LedgerEntry] = {}
    for number, event in enumerate(events, start=2):
        try:
            parsed = _parsed(event)
            parsed.check_against(entries)
        except (ValueError, TypeError) as error:
            raise TamperedError(f"Line {number} of the ledger is not one it writes: {error}") from (
                error
            )
        entries[parsed.run] = parsed.applied_to(entries)
    return entries


def _parsed(event: Mapping[str, Any]) -> Charge | Settlement:
    fields = dict(event)
    kind = fields.pop("kind", None)
    if kind == "charge":
        return Charge(**fields | {"mechanism": mechanism_from_dict(fields.get("mechanism"))})
    if kind == "settle":
        return Settlement(**fields)
    raise ValueError(f"kind={kind!r} is not known.")


def _check_same_kind(recorded: Mechanism, given: Mechanism) -> None:
    for name in ("unit", "neighboring"):
        old, new = getattr(recorded, name), getattr(given, name)
        if old != new:
            raise ValueError(
                f"The ledger is kept with {name}={old!r}, the new mechanism has {new!r}: no"
                " guarantee covers both. Describe the run with the ledger's."
            )
