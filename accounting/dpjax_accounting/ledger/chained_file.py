"""A file of JSON lines, each with the hash of the one before, that only ever grows.

Beside `NAME` stands `NAME.head`, which holds how many lines there are and the hash of the last
one. A line is written and synced first, then the head; a caller goes on once both are there. So

* a line that was changed, removed, added in the middle or exchanged breaks the chain;
* lines that are missing at the end are fewer than the head says;
* whatever follows the lines that the head counts was being written when something crashed: nobody
  relied on it yet. A whole line is kept, a torn one is dropped by the next append.

It cannot be detected that somebody wrote both files anew, or put back an older copy of both: there
is no secret in them. Who must exclude that keeps a head elsewhere, as the privacy report of every
run does, and asks `ChainedFile.contains` for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dpjax_accounting.safe_files import append_bytes, locked, write_text

_START = "0" * 64
_MODE = 0o600


class TamperedError(ValueError):
    """A file is not what was written: lines were changed, removed or exchanged."""


@dataclasses.dataclass(frozen=True)
class Head:
    """How many lines a chained file has, and the SHA-256 of the last one."""

    num_lines: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class ChainedLines:
    """What a chained file holds: its records, the hash of each, and the bytes they take.

    `torn` says that half a line follows, left by a crash.
    """

    records: tuple[dict[str, Any], ...]
    hashes: tuple[str, ...]
    num_bytes: int
    torn: bool

    @property
    def head(self) -> Head:
        """The head that belongs to these lines."""
        return Head(len(self.hashes), self.hashes[-1])


class ChainedFile:
    """An append-only file of JSON objects; see the module for what it detects.

    Args:
        path: of the file. Its head and its lock stand beside it as PATH.head and PATH.lock.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._head = self.path.with_name(self.path.name + ".head")
        self._lock = self.path.with_name(self.path.name + ".lock")

    def exists(self) -> bool:
        """Whether there is such a file, or the head of one."""
        return self.path.exists() or self._read_head_count() > 1

    def create(self, record: Mapping[str, Any]) -> None:
        """Starts the file with one record.

        Raises:
            FileExistsError: if there is one, or the head of one that is gone.
            OSError: if it cannot be written.
        """
        with locked(self._lock):
            if self.exists():
                raise FileExistsError(f"{self.path} exists already, or its head {self._head} does.")
            line, sha256 = _chained(record, _START)
            # The head goes first: a head of one line without its file is a creation that crashed,
            # while a file without its head is one whose head was taken away.
            self._write_head(Head(1, sha256))
            write_text(self.path, line, mode=_MODE)

    def read(self) -> ChainedLines:
        """Returns all records, after checking the whole chain.

        Raises:
            FileNotFoundError: if there is no such file.
            TamperedError: if a line was changed, removed or exchanged, or the head was.
        """
        while True:
            head = self._head.read_bytes() if self._head.exists() else b""
            lines = self._read()
            # The same head before and after: nobody finished a line in between.
            if head == self._head.read_bytes():
                return lines

    def append(
        self, record_of: Callable[[tuple[dict[str, Any], ...]], Mapping[str, Any] | None]
    ) -> ChainedLines:
        """Appends the record that `record_of` makes of those there are; None appends nothing.

        No other process writes in between. Line and head are on the disk on return.

        Raises:
            FileNotFoundError: if there is no such file.
            TamperedError: as for :meth:`read`; nothing is written then.
        """
        with locked(self._lock):
            lines = self._read()
            record = record_of(lines.records)
            if record is None:
                return lines
            line, sha256 = _chained(record, lines.hashes[-1])
            append_bytes(self.path, line.encode(), keep=lines.num_bytes)
            self._write_head(Head(len(lines.hashes) + 1, sha256))
            return self._read()

    def contains(self, head: Head) -> bool:
        """Whether the file once ended with `head`, that is, only grew since.

        Raises:
            FileNotFoundError, TamperedError: as for :meth:`read`.
        """
        hashes = self.read().hashes
        return 1 <= head.num_lines <= len(hashes) and hashes[head.num_lines - 1] == head.sha256

    def _read(self) -> ChainedLines:
        data = self._read_bytes()
        head = self._read_head()
        records: list[dict[str, Any]] = []
        hashes: list[str] = []
        num_bytes = 0
        # What follows the last line break is no whole line.
        for number, line in enumerate(data.split(b"\n")[:-1], start=1):
            read = _unchained(line, hashes[-1] if hashes else _START)
            if read is None:
                if number > head.num_lines:
                    break
                raise TamperedError(
                    f"{self.path}: line {number} does not follow from the line before it. It was"
                    " changed, or lines were removed, added or exchanged there. Find a copy that"
                    " is whole."
                )
            records.append(read[0])
            hashes.append(read[1])
            num_bytes += len(line) + 1
        self._check_against(head, hashes)
        return ChainedLines(tuple(records), tuple(hashes), num_bytes, torn=num_bytes < len(data))

    def _check_against(self, head: Head, hashes: list[str]) -> None:
        if len(hashes) < head.num_lines:
            raise TamperedError(
                f"{self.path} was truncated: it has {len(hashes)} whole lines, but"
                f" {self._head.name} says that {head.num_lines} were written. Find a copy that is"
                " whole."
            )
        if hashes[head.num_lines - 1] != head.sha256:
            raise TamperedError(
                f"{self.path}: line {head.num_lines} is not the one that {self._head.name} names:"
                " one of the two files was exchanged. Find copies that belong together."
            )
        if len(hashes) > head.num_lines + 1:
            raise TamperedError(
                f"{self.path} has {len(hashes)} lines, but {self._head.name} knows of"
                f" {head.num_lines}: the head was exchanged for an older one. Find copies that"
                " belong together."
            )

    def _read_bytes(self) -> bytes:
        if self.path.exists():
            return self.path.read_bytes()
        count = self._read_head_count()
        if count > 1:
            raise TamperedError(
                f"{self.path} is gone, but {self._head.name} says that {count} lines were written."
                " Put the file back; without it nobody knows what they said."
            )
        raise FileNotFoundError(f"{self.path} does not exist.")

    def _read_head_count(self) -> int:
        return self._read_head().num_lines if self._head.exists() else 0

    def _read_head(self) -> Head:
        if not self._head.exists():
            raise TamperedError(
                f"{self._head} is missing: without it nobody knows whether the last lines of"
                f" {self.path.name} were cut off. Put it back from the copy that belongs to it."
            )
        try:
            fields = json.loads(self._head.read_bytes())
            head = Head(**fields)
            valid = isinstance(head.num_lines, int) and head.num_lines >= 1
        except (ValueError, TypeError):
            valid = False
        if not valid:
            raise TamperedError(f"{self._head} is no head of a chained file: it was changed.")
        return head

    def _write_head(self, head: Head) -> None:
        write_text(self._head, json.dumps(dataclasses.asdict(head)) + "\n", mode=_MODE)


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _chained(record: Mapping[str, Any], previous: str) -> tuple[str, str]:
    """The line of a record, and its hash."""
    linked = {"previous": previous, "record": record}
    sha256 = hashlib.sha256(_canonical(linked).encode()).hexdigest()
    return _canonical(linked | {"sha256": sha256}) + "\n", sha256


def _unchained(line: bytes, previous: str) -> tuple[dict[str, Any], str] | None:
    """The record and the hash of a line; None unless it is exactly what `_chained` makes."""
    try:
        record = json.loads(line)["record"]
        again, sha256 = _chained(record, previous)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (record, sha256) if again.encode() == line + b"\n" else None
