"""Lines of a text file in UTF-8, plain or in gzip, and what to do about another encoding."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

_MARKS = {
    # The longer ones first: one of UTF-32 begins with one of UTF-16.
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# The first bytes of gzip, zip, xz and Zstandard.
_COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
# A column's name or the beginning of a JSON object: ASCII whatever the texts are.
_BEGINNING = 64
_FEWEST_ZEROS = 4
_GZIP = ".gz"


def kind_of(path: Path) -> str:
    """The extension that says what a file holds, in small letters; of `a.csv.gz` it is `.csv`."""
    is_packed = path.suffix.lower() == _GZIP
    return Path(path.stem if is_packed else path.name).suffix.lower()


@contextmanager
def open_lines(path: Path, newline: str) -> Iterator[Iterator[str]]:
    r"""The lines of a file, with their ends; `newline` as in `open`.

    Raises:
        ValueError: the bytes are not UTF-8, or one is zero; names the line. Or a file that ends in
            .gz is damaged.

    Example:
        >>> _ = Path("notes.txt").write_text("one\ntwo\n", encoding="utf-8")
        >>> with open_lines(Path("notes.txt"), "\n") as lines:
        ...     list(lines)
        ['one\n', 'two\n']
    """
    with _translated(path), _open_bytes(path) as raw:
        beginning = raw.read(_BEGINNING)
    if beginning.startswith(_COMPRESSED):
        raise ValueError(
            f"{path} is a compressed file, not text; unpack it first, or let the name of one in "
            "gzip end in .gz"
        )
    encoding = _wide_encoding(beginning)
    if encoding is not None:
        raise ValueError(
            f"{path} is {encoding} text, not UTF-8; convert it, for instance with "
            f"`iconv -f {encoding} -t UTF-8`"
        )
    # utf-8-sig drops the byte order mark that spreadsheet programs put before the first name.
    with _translated(path), _open_bytes(path) as raw:
        file = io.TextIOWrapper(raw, encoding="utf-8-sig", newline=newline)
        try:
            yield _without_zeros(file, path)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise ValueError(
                f"{path}, line {_first_bad_line(path)} is not UTF-8 text (byte 0x{byte:02x}: "
                f"{error.reason}); convert it, for instance with `iconv -f LATIN1 -t UTF-8`"
            ) from None


def _open_bytes(path: Path) -> IO[bytes]:
    if path.suffix.lower() == _GZIP:
        return cast("IO[bytes]", gzip.GzipFile(path))
    return path.open("rb")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is no whole gzip file ({type(error).__name__}), as its name says; copy it "
            "once more"
        ) from None


def _wide_encoding(beginning: bytes) -> str | None:
    """The encoding of a text whose characters take two or four bytes."""
    for mark, encoding in _MARKS.items():
        if beginning.startswith(mark):
            return encoding
    zeros = [place for place, byte in enumerate(beginning) if byte == 0]
    if len(zeros) < _FEWEST_ZEROS or len(zeros) == len(beginning):
        return None
    places = {place % 4 for place in zeros}
    if len(places) == 3:
        return "UTF-32LE" if 0 not in places else "UTF-32BE"
    if len({place % 2 for place in zeros}) == 1:
        return "UTF-16LE" if zeros[0] % 2 else "UTF-16BE"
    return None


def _without_zeros(lines: Iterator[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise ValueError(
                f"{path}, line {number}: a byte that is zero; the file is damaged, or is not text"
            )
        yield line


def _first_bad_line(path: Path) -> int:
    # No character of UTF-8 has the byte of a line feed in it.
    with _open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    raise AssertionError(f"{path} has changed while it was read")
