"""The file of draws of an unfinished synthesis."""

from __future__ import annotations

import json
from pathlib import Path

from dpjax.synthesis.drawing.draws import Draw, Place

_OWNER_ONLY = 0o600


class DrawLog:
    """The file of draws: whole lines are appended as they come, and read again on resumption.

    Attributes:
        draws: what the file holds.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, up to the first damaged line, such as half a line after a crash."""
        self.draws: dict[Place, Draw] = {}
        path.touch(mode=_OWNER_ONLY)
        length = 0
        for line in path.read_bytes().splitlines(keepends=True):
            if not _is_whole(line):
                break
            fields = json.loads(line)
            place = Place(fields["condition"], fields["number"])
            self.draws[place] = Draw(fields["text"], fields["num_tokens"], fields["has_ended"])
            length += len(line)
        # Unbuffered: what a full disk refuses is not tried again when the file is closed.
        self._file = path.open("ab", buffering=0)
        self._file.truncate(length)

    def append(self, draws: dict[Place, Draw]) -> None:
        """Adds draws, and hands them to the operating system.

        Raises:
            OSError: the disk is full.
        """
        self._write("".join(_line(*each) for each in draws.items()).encode())
        self.draws |= draws

    def __enter__(self) -> DrawLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def _write(self, lines: bytes) -> None:
        written = 0
        while written < len(lines):
            written += self._file.write(lines[written:])


def _line(place: Place, draw: Draw) -> str:
    return json.dumps(place._asdict() | draw._asdict()) + "\n"


def _is_whole(line: bytes) -> bool:
    try:
        fields = json.loads(line)
    except ValueError:
        return False
    names = {*Place._fields, *Draw._fields}
    return line.endswith(b"\n") and isinstance(fields, dict) and fields.keys() == names
