"""Parquet files, saved folders and hub datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpjax.basics.option_checks import did_you_mean
from dpjax.data.read.columns import RawColumns, Wanted, check_names

if TYPE_CHECKING:
    import datasets

_LONGEST_REASON = 300
# The default of `DataSource.split`, which says nothing about a source without splits.
_ANY_SPLIT = "train"


def read_parquet(path: Path, wanted: Wanted) -> RawColumns:
    """The wanted columns of one Parquet file; class names stored by `datasets` are used.

    Raises:
        ValueError: the file is not Parquet or is damaged, a column is missing or of a type that
            Python does not have, or a name occurs twice.
    """
    import pyarrow.parquet

    # Read here, not by `datasets`, which would write a copy into its cache.
    with _translated(f"{path} is not a readable Parquet file"):
        file = pyarrow.parquet.ParquetFile(path)
        schema = file.schema_arrow
    with file:
        check_names(schema.names, str(path))
        chosen = wanted.choose(schema.names, str(path))
        with _translated(f"{path} is damaged"):
            table = file.read(columns=_distinct(chosen))
            table.validate(full=True)
    features: Mapping[str, object] = {}
    if not {"label", "tags"}.isdisjoint(chosen) and b"huggingface" in (schema.metadata or {}):
        import datasets

        with _translated(f"{path}: what `datasets` wrote into it about its columns is damaged"):
            features = datasets.Features.from_arrow_schema(schema)
    columns = {}
    for column in _distinct(chosen):
        kind = schema.field(column).type
        with _translated(f"{path}: column {column!r} of type {kind} cannot be read", quote=False):
            columns[column] = table.column(column).to_pylist()
    return _rows(columns, chosen, features, str(path))


def read_saved_folder(path: Path, wanted: Wanted) -> RawColumns:
    """The wanted columns of a folder written by `datasets.save_to_disk`.

    Raises:
        ValueError: the folder holds something else or is damaged, or a split or column is missing.
    """
    if not ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
        files = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise ValueError(
            f"{path} is a folder, but not one that datasets.save_to_disk wrote (it holds {files}); "
            "give one data file instead"
        )
    import datasets

    broken = f"{path} is a folder of datasets.save_to_disk that cannot be read; save it once more"
    with _without_progress_bars(), _translated(broken):
        saved = datasets.load_from_disk(str(path), keep_in_memory=True)
    if isinstance(saved, datasets.DatasetDict):
        split = wanted.source.split
        if split not in saved:
            splits = ", ".join(map(repr, saved))
            raise ValueError(
                f"{path} has no split {split!r}; its splits: {splits}."
                + did_you_mean(split, saved, prefix="split=")
            )
        saved = saved[split]
    elif wanted.source.split not in (_ANY_SPLIT, str(saved.split)):
        raise ValueError(
            f"{path} is one split, got split={wanted.source.split!r}; leave it out, or save all "
            "splits with DatasetDict.save_to_disk"
        )
    return _columns_of(saved, wanted, str(path))


def read_hub(wanted: Wanted) -> RawColumns:
    """The wanted columns of one split of a hub dataset.

    Raises:
        FileNotFoundError: there is neither such a file nor such a dataset.
        ConnectionError: there is no such file, and the hub cannot be reached.
        ValueError: the split cannot be loaded, or a column is missing.
    """
    import datasets

    source = wanted.source
    absent = f"there is no file at {Path(source.path).absolute()}, and as a hub dataset"
    try:
        with _without_progress_bars():
            loaded = datasets.load_dataset(source.path, split=source.split)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{absent} {source.path!r} does not exist or is not open to you: {error}"
        ) from error
    except ConnectionError as error:
        raise ConnectionError(f"{absent} {source.path!r} could not be reached: {error}") from error
    except ValueError as error:
        raise ValueError(
            f"split {source.split!r} of the hub dataset {source.path!r} could not be loaded: "
            f"{error}\nOf a dataset with several configurations, save one with "
            "datasets.load_dataset(id, configuration).save_to_disk(folder) and give the folder"
        ) from error
    except Exception as error:  # Whatever parses the dataset's files raises.
        raise ValueError(
            f"the hub dataset {source.path!r} cannot be read: {_reason(error)}"
        ) from error
    return _columns_of(loaded, wanted, f"{source.path} (split {source.split})")


def _columns_of(dataset: datasets.Dataset, wanted: Wanted, place: str) -> RawColumns:
    check_names(dataset.column_names, place)
    chosen = wanted.choose(dataset.column_names, place)
    names = _distinct(chosen)
    with _translated(f"{place}: the columns {names} cannot be read", quote=False):
        # A saved dataset remembers its format, which may be torch tensors.
        plain = dataset.with_format(None).select_columns(names)
        # Arrow reads damaged memory without looking, and the process ends.
        plain.data.validate(full=True)
        columns = plain[:]
    return _rows(columns, chosen, dataset.features, place)


def _distinct(chosen: Mapping[str, str]) -> list[str]:
    """The columns, each once: the owner may be the label too."""
    return list(dict.fromkeys(chosen.values()))


def _rows(
    columns: Mapping[str, list[Any]],
    chosen: Mapping[str, str],
    features: Mapping[str, object],
    place: str,
) -> RawColumns:
    values = {
        field: [_without_nulls(value) for value in columns[column]]
        for field, column in chosen.items()
    }
    if "label" in chosen:
        names = getattr(features.get(chosen["label"]), "names", None)
        if names is not None:
            labels = enumerate(values["label"], start=1)
            values["label"] = [_class_name(label, names, row, place) for row, label in labels]
    if "tags" in chosen:
        names = getattr(getattr(features.get(chosen["tags"]), "feature", None), "names", None)
        if names is not None:
            values["tags"] = [
                _class_names(tags, names, row, place)
                for row, tags in enumerate(values["tags"], start=1)
            ]
    num_rows = len(next(iter(values.values())))
    return RawColumns(values, range(1, num_rows + 1), "row")


def _without_nulls(value: Any) -> Any:
    """The value without keys that are null: Arrow gives all objects of a column the same keys."""
    if isinstance(value, dict):
        return {key: _without_nulls(kept) for key, kept in value.items() if kept is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _class_names(tags: object, names: list[str], row: int, place: str) -> object:
    if not isinstance(tags, list):
        return tags
    return [_class_name(tag, names, row, place) for tag in tags]


def _class_name(label: object, names: list[str], row: int, place: str) -> str | None:
    """The name of a class by its number; -1 is how hub datasets write "no label"."""
    if label is None or label == -1:
        return None
    if not isinstance(label, int) or not 0 <= label < len(names):
        raise ValueError(
            f"{place}, row {row}: the label is not the number of one of the {len(names)} classes "
            "that the column has by its own account; save the dataset once more"
        )
    return names[label]


@contextmanager
def _translated(what: str, *, quote: bool = True) -> Iterator[None]:
    """Whatever a parser raises becomes a ValueError that says `what` could not be read.

    Args:
        what: opens the message: what could not be read.
        quote: whether the parser's words follow, which may repeat a value.
    """
    try:
        yield
    except Exception as error:
        reason = _reason(error) if quote else type(error).__name__
        raise ValueError(f"{what} ({reason})") from None


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    return type(error).__name__ + (f": {said[:_LONGEST_REASON]}" if said else "")


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    import datasets

    hidden_before = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden_before:
            datasets.enable_progress_bars()
