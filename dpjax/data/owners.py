"""Records of owners who have several each, such as the texts of one person."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.privatize import RunKey

# Seeds the public choice of rows that stay, beside numbers of rows.
_KEEP = 0x6B656570


@dataclasses.dataclass(frozen=True, eq=False)
class Owners:
    """Which rows belong to which owner, the owners in the order in which they first occur.

    Attributes:
        rows: `(N,)` int64, all rows, those of one owner together and in their order.
        starts: `(n + 1,)` int64; owner i has `rows[starts[i]:starts[i + 1]]`.

    Example:
        >>> owners = Owners.of(["ann", "bo", "ann"])
        >>> len(owners), owners.counts.tolist(), owners.rows_of(0).tolist()
        (2, [2, 1], [0, 2])
    """

    rows: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, names: Iterable[Hashable]) -> Owners:
        """Returns the owners of rows, given for each row the name of its owner.

        Raises:
            ValueError: a name is missing: None or NaN, of which each would be an owner of its own.
        """
        numbers: dict[Hashable, int] = {}
        owner_of = np.array(
            [numbers.setdefault(name, len(numbers)) for name in _checked(names)], np.int64
        )
        counts = np.bincount(owner_of, minlength=len(numbers))
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        return cls(np.argsort(owner_of, kind="stable"), starts.astype(np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> np.ndarray:
        """`(n,)` int64, how many rows each owner has."""
        return np.diff(self.starts)

    @property
    def owner_of(self) -> np.ndarray:
        """`(N,)` int64, the owner of each row."""
        numbers = np.empty(len(self.rows), np.int64)
        numbers[self.rows] = np.repeat(np.arange(len(self)), self.counts)
        return numbers

    def rows_of(self, owner: int) -> np.ndarray:
        """Returns the rows of one owner, in their order."""
        return self.rows[self.starts[owner] : self.starts[owner + 1]]

    def first(self, owners: np.ndarray, at_most: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first rows of each owner, `at_most` of them.

        Returns:
            Rows `(b, at_most)` int64, and a mask of that shape, False where an owner has no more;
            the owner's first row stands there.
        """
        chosen = [self.rows_of(owner)[:at_most] for owner in np.asarray(owners, np.int64)]
        return _padded(chosen, at_most)

    def draw(
        self,
        owners: np.ndarray,
        at_most: int,
        run_key: RunKey,
        step: int,
        *,
        is_shuffled: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws rows of each owner without replacement, `at_most` of them, in each step afresh.

        They stay in their order, or come in a random one with `is_shuffled`. What an owner draws
        depends on the run key, the step, the owner's place and the number of the owner's rows, and
        on nobody else's rows. All owners draw independently.

        Returns:
            As `first`.

        Example:
            >>> rows, mask = Owners.of("aaab").draw(np.array([0, 1]), 2, RunKey.from_seed(1), 0)
            >>> rows.shape, mask.tolist(), rows[1].tolist()
            ((2, 2), [[True, True], [True, False]], [3, 3])
        """
        chosen = []
        for owner in np.asarray(owners, np.int64):
            rows = self.rows_of(owner)
            if is_shuffled:
                rows = run_key.unit_rng(step, int(owner)).permutation(rows)[:at_most]
            elif len(rows) > at_most:
                rng = run_key.unit_rng(step, int(owner))
                rows = rows[np.sort(rng.choice(len(rows), at_most, replace=False))]
            chosen.append(rows)
        return _padded(chosen, at_most)

    def with_singles(self, count: int) -> Owners:
        """Returns these owners and others after them, with one row each behind all rows.

        Example:
            >>> Owners.of("aab").with_singles(2).owner_of.tolist()
            [0, 0, 1, 2, 3]
        """
        new = np.arange(len(self.rows), len(self.rows) + count)
        return Owners(np.concatenate([self.rows, new]), np.concatenate([self.starts, new + 1]))

    def keep(self, at_most: int) -> np.ndarray:
        """Returns the rows that stay if each owner keeps `at_most` of them, in their order.

        Which rows of an owner stay depends on `at_most` and on how many rows the owner has, and on
        nobody else's rows. It is the same in every run and no secret, and prefers no place in the
        file.

        Example:
            >>> kept = Owners.of("aaab").keep(2)
            >>> len(kept), kept[-1].item()
            (3, 3)
        """
        kept = [self._keep_of(owner, at_most) for owner in range(len(self))]
        return np.sort(np.concatenate(kept))

    def _keep_of(self, owner: int, at_most: int) -> np.ndarray:
        rows = self.rows_of(owner)
        if len(rows) <= at_most:
            return rows
        public = np.random.default_rng((_KEEP, len(rows), at_most))
        return rows[public.choice(len(rows), at_most, replace=False)]

    def fingerprint(self) -> str:
        """SHA-256 of who owns which rows, in hexadecimal; names do not enter."""
        digest = hashlib.sha256(self.rows.astype("<i8").tobytes())
        digest.update(self.starts.astype("<i8").tobytes())
        return digest.hexdigest()


class RecordsByOwner:
    """Records as units of one owner each, for `dpjax.fit` with `dpjax.unit_loss`.

    Unit i has the first `at_most` records of owner i, the same ones in every step. So a change of
    all that an owner has changes one unit, and nothing else.

    Args:
        records: a pytree of arrays `(N, ...)`, one row per record.
        names: the owner of each record.
        at_most: how many records of an owner count, at least 1. The others are never seen.

    Raises:
        ValueError: there is no record, the lengths differ, or `at_most` is below 1.

    Example:
        >>> texts = RecordsByOwner(np.array([1.0, 2.0, 3.0]), ["ann", "bo", "ann"], at_most=2)
        >>> unit = texts.take(np.array([0, 1]))
        >>> len(texts), unit["examples"].tolist(), unit["mask"].tolist()
        (2, [[1.0, 3.0], [2.0, 2.0]], [[True, True], [True, False]])
    """

    def __init__(self, records: PyTree, names: Iterable[Hashable], *, at_most: int) -> None:
        self.owners = _owners_of(records, names, at_most)
        self._records, self._at_most = records, at_most

    def __len__(self) -> int:
        return len(self.owners)

    def take(self, rows: np.ndarray) -> dict[str, Any]:
        """Returns the units at `rows`: `examples`, leaves `(b, k, ...)`, and their `mask`."""
        chosen, mask = self.owners.first(rows, self._at_most)
        return {"examples": jax.tree.map(lambda leaf: leaf[chosen], self._records), "mask": mask}


class OwnedRecords:
    """Single records whose owners are known, for `dpjax.fit` with `UserLevelDPSGD`.

    Each record is drawn and clipped by itself. Of an owner with more than `at_most` records, so
    many are kept as `Owners.keep` says, before anything is counted.

    Args:
        records: a pytree of arrays `(N, ...)`, one row per record.
        names: the owner of each record.
        at_most: how many records of an owner are kept, at least 1. The others are never seen.

    Attributes:
        owners: whose the kept records are.
        at_most: as given.

    Raises:
        ValueError: there is no record, the lengths differ, or `at_most` is below 1.

    Example:
        >>> notes = OwnedRecords(np.array([1.0, 2.0, 3.0, 4.0]), ["bo", *"aaa"], at_most=2)
        >>> len(notes), notes.take(np.array([0])), notes.owners.counts.tolist()
        (3, array([1.]), [1, 2])
    """

    def __init__(self, records: PyTree, names: Iterable[Hashable], *, at_most: int) -> None:
        listed = list(names)
        rows = _owners_of(records, listed, at_most).keep(at_most)
        self.owners, self.at_most = Owners.of(listed[row] for row in rows), at_most
        self._records = jax.tree.map(lambda leaf: leaf[rows], records)

    def __len__(self) -> int:
        return len(self.owners.rows)

    def take(self, rows: np.ndarray) -> PyTree:
        """Returns the kept records at `rows`, `(b,)`: leaves `(b, ...)`."""
        return jax.tree.map(lambda leaf: leaf[rows], self._records)


def _owners_of(records: PyTree, names: Iterable[Hashable], at_most: int) -> Owners:
    """Returns the owners of records, each of which must have one."""
    if at_most < 1:
        raise ValueError(f"at_most must be at least 1, got {at_most}")
    owners = Owners.of(names)
    num_names = len(owners.rows)
    lengths = sorted({len(leaf) for leaf in jax.tree.leaves(records)})
    if lengths != [num_names] or not num_names:
        raise ValueError(
            f"each record needs the name of its owner, got {num_names} names for "
            f"{' and '.join(map(str, lengths)) or 'no'} records"
        )
    return owners


def _checked(names: Iterable[Hashable]) -> Iterator[Hashable]:
    for row, name in enumerate(names):
        if name is None or name != name:
            raise ValueError(
                f"each row must have the name of its owner, got {name} for row {row}. Name the "
                "owner, or leave the row out"
            )
        yield name


def _padded(chosen: list[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.empty((len(chosen), length), np.int64)
    mask = np.zeros((len(chosen), length), np.bool_)
    for at, own in enumerate(chosen):
        rows[at], mask[at, : len(own)] = own[0], True
        rows[at, : len(own)] = own
    return rows, mask
