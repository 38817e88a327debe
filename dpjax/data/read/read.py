"""From the path of a source to its columns: which reader, and what if nothing is there."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Callable
from pathlib import Path

from dpjax.data.read.columns import Layout, RawColumns, Wanted
from dpjax.data.read.delimited import read_delimited
from dpjax.data.read.hugging_face import read_hub, read_parquet, read_saved_folder
from dpjax.data.read.json_lines import read_json_lines
from dpjax.data.read.text_lines import kind_of
from dpjax.data.read.word_lines import TAGGED, read_word_lines
from dpjax.data.source import DataSource

Reader = Callable[[Path, Wanted], RawColumns]
_READERS: dict[str, Reader] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".jsonl": read_json_lines,
    ".json": read_json_lines,
    ".parquet": read_parquet,
}
# A word on each line; a .tsv file holds them for a task that learns words with tags.
_OF_WORDS = (".conll", ".conllu", ".bio", ".iob", ".iob2", ".txt")

_WILDCARD = re.compile(r"[*?\[]")


def read_columns(wanted: Wanted) -> RawColumns:
    """The wanted columns of files, a saved folder or a hub dataset; there is at least one record.

    Raises:
        FileNotFoundError: there is no such file or dataset; names similar files.
        ValueError: the source cannot be read as said, or holds no records.
    """
    raw = _read(wanted)
    if not raw.positions:
        raise ValueError(f"{wanted.source.path} holds no records")
    return raw


def _read(wanted: Wanted) -> RawColumns:
    source = wanted.source
    try:
        path = Path(source.path).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"no file {source.path}: {error}") from None
    named = (read_delimited, read_word_lines)
    if source.column_names is not None and _reader_of(path, wanted) not in named:
        raise ValueError(
            f"column_names is for .csv and .tsv files without a header line, and for files with a "
            f"word on each line; {source.path} brings its own names"
        )
    if path.is_dir():
        return read_saved_folder(path, wanted)
    if path.exists():
        return _read_file(path, wanted)
    if _WILDCARD.search(source.path):
        return _read_matches(path, wanted)
    if _means_local(source.path, path):
        raise FileNotFoundError(_missing_file(path.absolute()))
    return read_hub(wanted)


def _read_file(path: Path, wanted: Wanted) -> RawColumns:
    if wanted.source.split != DataSource.split:
        raise ValueError(
            f"split is for hub datasets and saved folders with several; {path.absolute()} is a "
            f"file, got split={wanted.source.split!r}. Leave it out, and name the file of the split"
        )
    reader = _reader_of(path, wanted)
    if reader is None:
        suffix = kind_of(path) or path.suffix
        of_words = f", with a word on each line {', '.join(_OF_WORDS)}"
        if suffix in _OF_WORDS and suffix != ".txt":
            raise ValueError(
                f"{path.absolute()}: files with a word on each line are for "
                "task=token_classification"
            )
        raise ValueError(
            f"{path.absolute()}: the extension {suffix!r} is unknown; known are "
            f"{', '.join(_READERS)}{of_words if _learns_words(wanted) else ''}, and with .gz after "
            "them those of text"
        )
    if reader is read_parquet and path.suffix.lower() != ".parquet":
        raise ValueError(f"{path.absolute()}: Parquet compresses inside the file; unpack it first")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.absolute()} is empty (0 bytes)")
    return reader(path, wanted)


def _reader_of(path: Path, wanted: Wanted) -> Reader | None:
    """What reads a file of this extension; None for an unknown one."""
    kind = kind_of(path)
    if _learns_words(wanted) and kind in (*_OF_WORDS, ".tsv"):
        return read_word_lines
    return _READERS.get(kind)


def _learns_words(wanted: Wanted) -> bool:
    return wanted.layouts == (TAGGED,)


def _read_matches(pattern: Path, wanted: Wanted) -> RawColumns:
    """The columns of all files that a pattern matches, one after the other by name."""
    paths = sorted(Path(match) for match in glob.glob(str(pattern), recursive=True))
    if not paths:
        raise FileNotFoundError(f"no file matches {pattern.absolute()}")
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{pattern} matches {path}, which is no file; use a narrower pattern")
    read = ((path, _read_file(path, wanted)) for path in paths)
    parts = {path: part for path, part in read if part.positions}
    layouts: dict[Layout, Path] = {}
    for path, part in parts.items():
        layouts.setdefault(part.layout, path)
    if len(layouts) > 1:
        (first, path), (other, other_path), *_ = layouts.items()
        raise ValueError(
            f"{path} has the columns of {'_'.join(first)}, but {other_path} those of "
            f"{'_'.join(other)}; set record_format, or use a pattern of files of one format"
        )
    fields = dict.fromkeys(field for part in parts.values() for field in part.values)
    values: dict[str, list[object]] = {field: [] for field in fields}
    positions: list[int | str] = []
    for path, part in parts.items():
        for field, column in values.items():
            column.extend(part.values.get(field, [None] * len(part.positions)))
        positions.extend(f"{path}:{position}" for position in part.positions)
    return RawColumns(values, positions, "place")


def _means_local(given: str, path: Path) -> bool:
    """A hub id is `name` or `owner/name`; one whose owner is an existing folder is a local path."""
    if (
        kind_of(path) in (*_READERS, *_OF_WORDS)
        or given.startswith(("/", ".", "~"))
        or "\\" in given
    ):
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
