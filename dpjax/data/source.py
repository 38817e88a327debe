"""Where labelled text comes from."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DataSource:
    """Labelled text in a file, a folder or on the Hugging Face hub."""

    path: str
    """A .csv, .tsv, .jsonl, .json (one object per line) or .parquet file, a folder written by
    `datasets.save_to_disk`, or the id of a hub dataset. Files are read without leaving a copy in
    any cache; a hub dataset is cached by `datasets` as usual."""
    text_column: str = "text"
    """Column that holds the text."""
    label_column: str = "label"
    """Column that holds the label: strings, integers or booleans."""
    column_names: tuple[str, ...] | None = None
    """Names of all columns, in order, of a CSV or TSV file that has no header line."""
    split: str = "train"
    """Split of a hub dataset, or of a saved folder that has several."""
