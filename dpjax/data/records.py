"""Labelled texts, checked: what every data source becomes."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable
from pathlib import Path

from dpjax.data.hugging_face import read_hub, read_parquet, read_saved_folder
from dpjax.data.raw import RawColumns
from dpjax.data.source import DataSource
from dpjax.data.text_files import read_delimited, read_json_lines

_READERS: dict[str, Callable[[Path, DataSource], RawColumns]] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".jsonl": read_json_lines,
    ".json": read_json_lines,
    ".parquet": read_parquet,
}

_INTEGRAL_FLOAT = re.compile(r"(-?\d+)\.0+")


@dataclasses.dataclass(frozen=True)
class Records:
    """Texts and their labels, in the order of the source. Nothing is empty or missing."""

    texts: list[str]
    labels: list[str]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise ValueError(f"{len(self.texts)} texts, but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.texts)

    def split_at(self, position: int) -> tuple[Records, Records]:
        """The first `position` records, and the others."""
        if not 0 <= position <= len(self):
            raise ValueError(f"position must be between 0 and {len(self)}, got {position}")
        return (
            Records(self.texts[:position], self.labels[:position]),
            Records(self.texts[position:], self.labels[position:]),
        )


def read_records(source: DataSource) -> Records:
    """Reads and checks every record of `source`.

    Texts stay as they are. Labels become strings without surrounding blanks: 1 and 1.0 become
    "1", True becomes "True", and the class numbers of a `datasets` feature become its names.

    Raises:
        FileNotFoundError: there is no such file or dataset; names similar files.
        ValueError: the source cannot be read as said, or a record lacks its text or label. Lines
            are named, but never quoted: they are private.
    """
    return _checked(_read(source), source)


def _read(source: DataSource) -> RawColumns:
    path = Path(source.path).expanduser()
    reader = _READERS.get(path.suffix.lower())
    if source.column_names is not None and reader is not read_delimited:
        raise ValueError(
            f"column_names is for .csv and .tsv files without a header line; {source.path} brings "
            "its own names"
        )
    if path.is_dir():
        return read_saved_folder(path, source)
    if path.exists():
        if reader is None:
            raise ValueError(
                f"{path.absolute()}: the extension {path.suffix!r} is unknown; known are "
                f"{', '.join(_READERS)}"
            )
        if path.stat().st_size == 0:
            raise ValueError(f"{path.absolute()} is empty (0 bytes)")
        return reader(path, source)
    if _means_local(source.path, path):
        raise FileNotFoundError(_missing_file(path.absolute()))
    return read_hub(source)


def _means_local(given: str, path: Path) -> bool:
    """A hub id is `name` or `owner/name`; one whose owner is an existing folder is a local path."""
    if path.suffix.lower() in _READERS or given.startswith(("/", ".", "~")) or "\\" in given:
        return True
    if len(path.parts) == 1:
        return "." in given
    return len(path.parts) != 2 or path.parent.exists()


def _missing_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        existing = next(parent for parent in folder.parents if parent.is_dir())
        return f"no file {path}: the folder {folder} does not exist ({existing} does)"
    names = sorted(entry.name for entry in folder.iterdir())
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"no file {path}; " + (
        f"similar names there: {', '.join(near)}" if near else "nothing there has a similar name"
    )


def _checked(raw: RawColumns, source: DataSource) -> Records:
    if not raw.texts:
        raise ValueError(f"{source.path} holds no records")
    texts: list[str] = []
    labels: list[str] = []
    problems: dict[str, list[int]] = {}
    for raw_text, raw_label, position in zip(raw.texts, raw.labels, raw.positions, strict=True):
        text, text_problem = _text(raw_text)
        label, label_problem = _label(raw_label)
        texts.append(text)
        labels.append(label)
        for problem in (text_problem, label_problem):
            if problem:
                problems.setdefault(problem, []).append(position)
    if problems:
        raise ValueError(
            f"{source.path} (text_column={source.text_column!r}, "
            f"label_column={source.label_column!r}): "
            + "; ".join(_report(*item, raw.position_name) for item in problems.items())
        )
    return Records(texts, labels)


def _text(value: object) -> tuple[str, str | None]:
    """The text, and what is wrong with it."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "", "text missing or empty"
    if not isinstance(value, str):
        return "", f"text of type {type(value).__name__} instead of str"
    # JSON can escape half a surrogate pair, which no tokenizer accepts.
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        return "", "text with half a surrogate pair (not valid Unicode)"
    return value, None


def _label(value: object) -> tuple[str, str | None]:
    """The label as a string, and what is wrong with it."""
    if isinstance(value, float) and value.is_integer():
        # A column of integers in which a value was missing was stored as floats.
        value = int(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", "label missing or empty"
    if not isinstance(value, (str, int)):
        return "", f"label of type {type(value).__name__} instead of str, int or bool"
    label = str(value).strip()
    integral = _INTEGRAL_FLOAT.fullmatch(label)
    label = integral[1] if integral else label
    return label, None if label else "label missing or empty"


def _report(problem: str, positions: list[int], position_name: str) -> str:
    shown = ", ".join(map(str, positions[:5])) + (", …" if len(positions) > 5 else "")
    plural = "" if len(positions) == 1 else "s"
    return f"{len(positions)} record{plural} with {problem} ({position_name}{plural} {shown})"
