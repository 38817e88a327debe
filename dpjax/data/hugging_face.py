"""Parquet files, saved folders and hub datasets."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpjax.data.raw import RawColumns, check_columns
from dpjax.data.source import DataSource

if TYPE_CHECKING:
    import datasets


def read_parquet(path: Path, source: DataSource) -> RawColumns:
    """Text and label column of one Parquet file; class names stored by `datasets` are used.

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
        check_columns(source, schema.names, str(path))
        table = file.read(columns=[source.text_column, source.label_column])
    feature = None
    if b"huggingface" in (schema.metadata or {}):
        import datasets

        feature = datasets.Features.from_arrow_schema(schema)[source.label_column]
    labels = table.column(source.label_column).to_pylist()
    return RawColumns(
        texts=table.column(source.text_column).to_pylist(),
        labels=_with_class_names(labels, feature),
        positions=range(1, table.num_rows + 1),
        position_name="row",
    )


def read_saved_folder(path: Path, source: DataSource) -> RawColumns:
    """Text and label column of a folder written by `datasets.save_to_disk`.

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
        if source.split not in saved:
            near = difflib.get_close_matches(source.split, saved, n=1)
            hint = f" Did you mean split={near[0]!r}?" if near else ""
            raise ValueError(
                f"{path} has no split {source.split!r}; its splits: "
                f"{', '.join(map(repr, saved))}.{hint}"
            )
        saved = saved[source.split]
    return _columns_of(saved, source, str(path))


def read_hub(source: DataSource) -> RawColumns:
    """Text and label column of one split of a hub dataset.

    Raises:
        FileNotFoundError: there is neither such a file nor such a dataset.
        ConnectionError: there is no such file, and the hub cannot be reached.
        ValueError: the split cannot be loaded, or a column is missing.
    """
    import datasets

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
    return _columns_of(loaded, source, f"{source.path} (split {source.split})")


def _columns_of(dataset: datasets.Dataset, source: DataSource, place: str) -> RawColumns:
    check_columns(source, dataset.column_names, place)
    # A saved dataset remembers its format, which may be torch tensors.
    plain = dataset.with_format(None)
    columns: dict[str, list[Any]] = plain.select_columns([source.text_column, source.label_column])[
        :
    ]
    return RawColumns(
        texts=columns[source.text_column],
        labels=_with_class_names(
            columns[source.label_column], dataset.features[source.label_column]
        ),
        positions=range(1, len(dataset) + 1),
        position_name="row",
    )


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
