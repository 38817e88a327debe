"""The privacy spent on one data set over its lifetime, on file.

A run is charged with its whole mechanism before it releases anything, and settled to the steps
that it took when it ends or is interrupted. What is not settled counts in full, so that a crash can
only make the total too large. A run that is resumed is charged again under its own name and key:
that opens its entry again and adds nothing, since steps that it repeats have the noise that they
had. With a fresh key a repeated step is a new release, and so a new run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpjax_accounting.ledger.chained_file import ChainedFile, Head, TamperedError
from dpjax_accounting.ledger.dataset_identity import DatasetIdentity
from dpjax_accounting.ledger.entry import Charge, LedgerEntry, Settlement, entries_of
from dpjax_accounting.mechanisms.composition import Composition
from dpjax_accounting.mechanisms.mechanism import Mechanism, NoRenyiDivergence

_FORMAT = "dpjax-ledger-1"
_AN_ORDER = np.array([2.0])
_HEADER = {"format", "dataset", "nonce", "merged_from"}


class Ledger:
    """An append-only, hash-chained file of all that was released from one data set.

    Its hash of the data is private, as :class:`DatasetIdentity` says: the file is made readable for
    its owner only, and belongs beside the data. The head of the chain may be published: it depends
    on a random number in the file. `dpjax_accounting.ledger.chained_file` says which changes are
    detected.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: if there is no such ledger.
        TamperedError: if it is not what was written.
        ValueError: if the file is no ledger.

    Example:
        >>> import pathlib, tempfile
        >>> from dpjax_accounting import DatasetIdentity, FullBatch, Ledger
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "ledger"
        >>> ledger = Ledger.create(path, DatasetIdentity.of([b"one record", b"another"]))
        >>> ledger.charge("first", FullBatch(noise_multiplier=8.0, num_steps=6), key="key of it")
        >>> ledger.settle("first", num_steps=3)
        >>> round(ledger.epsilon(1e-5), 3)
        0.791
    """

    def __init__(self, path: str | Path) -> None:
        self._file = ChainedFile(path)
        header = self._read()[0]
        self.path = self._file.path
        self.dataset = DatasetIdentity(**header["dataset"])

    @classmethod
    def create(
        cls, path: str | Path, dataset: DatasetIdentity, merged_from: Sequence[Head] = ()
    ) -> Ledger:
        """Starts the ledger of `dataset`; `merged_from` names the ledgers it is made of, if any.

        Raises:
            FileExistsError: if there is a ledger, or the head of one.
            OSError: if the file cannot be written.
        """
        ChainedFile(path).create(
            {
                "format": _FORMAT,
                "dataset": dataclasses.asdict(dataset),
                # Nobody can test a guess of the data against a published head.
                "nonce": secrets.token_hex(32),
                "merged_from": [dataclasses.asdict(head) for head in merged_from],
            }
        )
        return cls(path)

    @classmethod
    def open(cls, path: str | Path, dataset: DatasetIdentity) -> Ledger:
        """Returns the ledger of `dataset` at `path`, started if there is none.

        Raises:
            ValueError: if the ledger there is that of another data set, or no ledger.
            TamperedError: if it is not what was written.
            OSError: if the file cannot be read or written.
        """
        if not ChainedFile(path).exists():
            # Another process may be first.
            with contextlib.suppress(FileExistsError):
                return cls.create(path, dataset)
        ledger = cls(path)
        check_same_dataset(f"The ledger {path}", ledger.dataset, dataset)
        return ledger

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether there is a ledger at `path`, or the head of one that is gone."""
        return ChainedFile(path).exists()

    @property
    def head(self) -> Head:
        """How many lines there are, and the hash of the last: what a report quotes."""
        return self._file.read().head

    @property
    def torn(self) -> bool:
        """Whether half a line follows, left by a crash; nothing was released for it."""
        return self._file.read().torn

    def contains(self, head: Head) -> bool:
        """Whether the ledger once had this head, that is, has only grown since."""
        return self._file.contains(head)

    def charge(self, run: str, mechanism: Mechanism, *, key: str, note: str = "") -> None:
        """Puts a run on record with all that it may release; to be called before it releases any.

        The entry is on the disk on return. Charging a run again, as a resumed one does, adds
        nothing; if it was settled, it counts in full again.

        Args:
            run: identifies the run, whatever becomes of it.
            mechanism: the whole of it, as planned.
            key: identifies the secret from which the noise is drawn, such as a hash of it; never
                the secret.
            note: for people.

        Raises:
            ValueError: if the run is on record with another mechanism or key; if another run has
                the same key, so that their noise is the same; if the mechanism's unit, relation or
                number of units is not that of the ledger.
            TamperedError: if the ledger is not what was written.
        """
        charge = self._charge(run, mechanism, key, note)

        def record_of(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
            entries = entries_of(records[1:])
            charge.check_against(entries)
            stands = run in entries and entries[run].num_steps is None
            return None if stands else charge.to_dict()

        self._file.append(record_of)

    def check_charge(self, run: str, mechanism: Mechanism, *, key: str) -> None:
        """Raises what :meth:`charge` would raise now, and writes nothing."""
        entries = entries_of(self._read()[1:])
        self._charge(run, mechanism, key, "").check_against(entries)

    def settle(self, run: str, num_steps: int) -> None:
        """Reduces a run's charge to the steps that it took; to be called once it takes no more.

        Raises:
            ValueError: if the run is not on record, is settled with another number of steps, or
                was charged for fewer.
            TamperedError: if the ledger is not what was written.
        """
        settlement = Settlement(run, num_steps, _now())

        def record_of(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
            entries = entries_of(records[1:])
            settlement.check_against(entries)
            return None if entries[run].num_steps == num_steps else settlement.to_dict()

        self._file.append(record_of)

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Returns every run once, in the order in which they were first charged.

        Raises:
            TamperedError: if the ledger is not what was written.
        """
        return tuple(entries_of(self._read()[1:]).values())

    def events(self) -> tuple[dict[str, Any], ...]:
        """Returns the charges and settlements as they stand in the file."""
        return self._read()[1:]

    def composition(self) -> Composition | None:
        """Returns all that was spent as one mechanism, or None if nothing was.

        The composition is adaptive: a run may use what earlier ones released. How many runs there
        are, and with what noise and steps, is taken as given; where that was decided by looking at
        results, the total is what was spent, not a bound promised in advance (Rogers et al. 2016).
        """
        mechanisms = tuple(e.mechanism for e in self.entries() if e.num_steps != 0)
        return Composition(mechanisms) if mechanisms else None

    def epsilon(self, delta: float) -> float:
        """Returns the ε at `delta` of everything on record; 0.0 if there is nothing.

        Raises:
            TypeError: if `delta` is not a number.
            ValueError: if `delta` is out of range, or the loss too large to account for.
            TamperedError: if the ledger is not what was written.
        """
        composition = self.composition()
        return 0.0 if composition is None else composition.epsilon(delta)

    def _charge(self, run: str, mechanism: Mechanism, key: str, note: str) -> Charge:
        _check_fits(mechanism, self.dataset)
        return Charge(run, mechanism, key, note, _now())

    def _read(self) -> tuple[dict[str, Any], ...]:
        records = self._file.read().records
        header = records[0]
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise ValueError(f"{self._file.path} is no ledger in the format {_FORMAT}.")
        if set(header) != _HEADER:
            raise TamperedError(f"{self._file.path}: its first line is not one a ledger has.")
        return records


def check_same_dataset(what: str, recorded: DatasetIdentity, given: DatasetIdentity) -> None:
    """Raises ValueError unless both are the same data set."""
    if recorded == given:
        return
    raise ValueError(
        f"{what} is that of another data set: {recorded.num_units} {recorded.unit}s, hash"
        f" {recorded.sha256[:8]}…, while this one has {given.num_units} {given.unit}s, hash"
        f" {given.sha256[:8]}…. Name the ledger that belongs to the data, or a new one. Where the"
        " two share records, what was spent on those adds up, and no ledger tells how much."
    )


def _check_fits(mechanism: Mechanism, dataset: DatasetIdentity) -> None:
    if not isinstance(mechanism, Mechanism):
        raise TypeError(f"mechanism must be a Mechanism; got {type(mechanism).__name__}.")
    try:
        mechanism.rdp(_AN_ORDER)
    except NoRenyiDivergence as error:
        raise ValueError(
            f"A ledger adds up all runs, and a {mechanism.name!r} mechanism cannot be added to"
            f" others: {error}"
        ) from error
    num_units = getattr(mechanism, "num_units", None)
    for name, given, expected in (
        ("unit", mechanism.unit, dataset.unit),
        ("num_units", dataset.num_units if num_units is None else num_units, dataset.num_units),
    ):
        if given != expected:
            raise ValueError(
                f"The mechanism has {name}={given!r}, but the ledger's data set has {expected!r}."
                " Describe the run on this data set, or use another ledger."
            )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
