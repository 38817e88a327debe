"""From the path of a source to its columns: which reader, and what if nothing is there."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from dpjax.data.read.columns import RawColumns, Wanted
from dpjax.data.read.delimited import read_delimited
from dpjax.data.read.hugging_face import read_hub, read_parquet, read_saved_folder
from dpjax.data.read.json_lines import read_json_lines

_READERS: dict[str, Callable[[Path, Wanted], RawColumns]] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".jsonl": read_json_lines,
    ".json": read_json_lines,
    ".parquet": read_parquet,
}


def read_columns(wanted: Wanted) -> RawColumns:
    """The wanted columns of a file, a saved folder or a hub dataset; there is at least one record.

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
    reader = _READERS.get(path.suffix.lower())
    if source.column_names is not None and reader is not read_delimited:
        raise ValueError(
            f"column_names is for .csv and .tsv files without a header line; {source.path} brings "
            "its own names"
        )
    if path.is_dir():
        return read_saved_folder(path, wanted)
    if path.exists():
        if reader is None:
            raise ValueError(
                f"{path.absolute()}: the extension {path.suffix!r} is unknown; known are "
                f"{', '.join(_READERS)}"
            )
        if path.stat().st_size == 0:
            raise ValueError(f"{path.absolute()} is empty (0 bytes)")
        return reader(path, wanted)
    if _means_local(source.path, path):
        raise FileNotFoundError(_missing_file(path.absolute()))
    return read_hub(wanted)


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
