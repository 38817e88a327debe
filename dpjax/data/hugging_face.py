"""Parquet files, saved folders and hub datasets."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpjax.data.raw import RawColumns, Wanted

if TYPE_CHECKING:
    import datasets


def read_parquet(path: Path, wanted: Wanted) -> RawColumns:
    """The wanted columns of one Parquet file; class names stored by `datasets` are used.

    Raises:
        ValueError: the file is not Parquet, or a column is missing.
    """
    import pyarrow
    import pyarrow.parquet

    # Read here, not by `datasets`, which would write a copy into its cache.
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from error
    with file:
        schema = file.schema_arrow
        chosen = wanted.choose(schema.names, str(path))
        table = file.read(columns=list(chosen.values()))
    features: Mapping[str, object] = {}
    if "label" in chosen and b"huggingface" in (schema.metadata or {}):
        import datasets

        features = datasets.Features.from_arrow_schema(schema)
    columns = {column: table.column(column).to_pylist() for column in chosen.values()}
    return _rows(columns, chosen, features)


def read_saved_folder(path: Path, wanted: Wanted) -> RawColumns:
    """The wanted columns of a folder written by `datasets.save_to_disk`.

    Raises:
        ValueError: the folder holds something else, or a split or column is missing.
    """
    if not ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
        files = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise ValueError(
            f"{path} is a folder, but not one that datasets.save_to_disk wrote (it holds {files}); "
            "give one data file instead"
        )
    import datasets

    with _without_progress_bars():
        saved = datasets.load_from_disk(str(path), keep_in_memory=True)
    if isinstance(saved, datasets.DatasetDict):
        split = wanted.source.split
        if split not in saved:
            near = difflib.get_close_matches(split, saved, n=1)
            hint = f" Did you mean split={near[0]!r}?" if near else ""
            raise ValueError(
                f"{path} has no split {split!r}; its splits: {', '.join(map(repr, saved))}.{hint}"
            )
        saved = saved[split]
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
    return _columns_of(loaded, wanted, f"{source.path} (split {source.split})")


def _columns_of(dataset: datasets.Dataset, wanted: Wanted, place: str) -> RawColumns:
    chosen = wanted.choose(dataset.column_names, place)
    # A saved dataset remembers its format, which may be torch tensors.
    columns = dataset.with_format(None).select_columns(list(chosen.values()))[:]
    return _rows(columns, chosen, dataset.features)


def _rows(
    columns: Mapping[str, list[Any]], chosen: Mapping[str, str], features: Mapping[str, object]
) -> RawColumns:
    values = {field: columns[column] for field, column in chosen.items()}
    if "label" in chosen:
        values["label"] = _with_class_names(values["label"], features.get(chosen["label"]))
    num_rows = len(next(iter(values.values())))
    return RawColumns(values, range(1, num_rows + 1), "row")


def _with_class_names(labels: list[Any], feature: object) -> list[Any]:
    names = getattr(feature, "names", None)
    if names is None:
        return labels
    # -1 is how hub datasets write "no label", for instance in held-back test splits.
    return [None if label is None or label < 0 else names[label] for label in labels]


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
