"""metrics.jsonl: one JSON object a line, appended as the run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpjax_accounting import write_text


class MetricsLog:
    """The rows of metrics.jsonl, and the file, to which only whole lines are added.

    Attributes:
        rows: what the file holds.
        num_missing: how many rows of steps up to `keep_steps` it has lost.
    """

    def __init__(self, path: Path, keep_steps: int = 0) -> None:
        """Opens the log, dropping the rows of steps after `keep_steps`: they will be run again.

        A line that is not one that was written, such as half a line after a crash, is dropped.
        """
        self.rows = [row for row in read_rows(path) if row["step"] <= keep_steps]
        self.num_missing = keep_steps - len({row["step"] for row in self.rows})
        write_text(path, "".join(map(_line, self.rows)))
        # Unbuffered: what a full disk refuses is not tried again when the file is closed.
        self._file = path.open("ab", buffering=0)

    def append(self, row: dict[str, Any]) -> None:
        """Adds one row and hands it to the operating system.

        Raises:
            OSError: the disk is full; the file ends with the last whole line.
        """
        end = self._file.tell()
        line = _line(row).encode()
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            self._file.truncate(end)
            raise
        self.rows.append(row)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log, without lines that are damaged; none if there is no file."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [row for row in map(_row, lines) if row is not None]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
