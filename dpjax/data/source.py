"""Where records come from."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from dpjax.basics.option_checks import CheckedOptions, did_you_mean
from dpjax.data.unicode import has_half_surrogate

RecordFormat = Literal[
    "auto", "text", "prompt_completion", "messages", "conversations", "instruction_output"
]


@dataclasses.dataclass(frozen=True)
class DataSource(CheckedOptions):
    """Records in a file, a folder or on the Hugging Face hub.

    Raises:
        ValueError: `record_format` is not one of those below, the path is empty, or a string is not
            valid Unicode.

    Example:
        >>> DataSource("train.tsv", text_column="sentence").label_column
        'label'
    """

    path: str
    """A .csv, .tsv, .jsonl, .json (one object per line, or one list of them) or .parquet file, a
    pattern of several such as `parts/*.jsonl`, a folder written by `datasets.save_to_disk`, or the
    id of a hub dataset; for a token classifier also a file with a word on each line and a blank
    line after each sentence: .conll, .conllu, .bio, .iob, .iob2, .txt or .tsv. Files of text may be
    compressed: `.jsonl.gz`. Files are read without leaving a copy in any cache; a hub dataset is
    cached by `datasets` as usual."""
    text_column: str = "text"
    """Column that holds the text."""
    label_column: str = "label"
    """Column that holds the label of a classifier's text: strings, integers or booleans."""
    words_column: str = "tokens"
    """Column that holds the words of a token classifier's text: a list of strings. Of a file with a
    word on each line its name, or its number from 1, or from -1 at the end; default there: the
    first, or FORM of CoNLL-U."""
    tags_column: str = "tags"
    """Column that holds the tags of these words: a list of strings, integers or booleans. Of a file
    with a word on each line its name or number, as for words; default there: the last."""
    tag_names: tuple[str, ...] | None = None
    """Names of the tags of a token classifier that are stored as numbers, in order from 0."""
    prompt_column: str = "prompt"
    """Column that holds what a language model is given: a string or a list of messages."""
    completion_column: str = "completion"
    """Column that holds what a language model is to answer: like the prompt, a string or a list
    of messages."""
    chosen_column: str = "chosen"
    """Column that holds, of two answers to a prompt, the one that was preferred: a string or a list
    of messages, which may have the prompt before the answer."""
    rejected_column: str = "rejected"
    """Column that holds the other one: of the same kind as the one that was preferred."""
    messages_column: str = "messages"
    """Column that holds a conversation: a list of objects with `role` and `content`, or with `from`
    and `value`."""
    owner_column: str | None = None
    """Column of the training data that names whose a record is: strings, integers or booleans. The
    guarantee is then for an owner with all records, instead of for a single record. Names that
    differ only in blanks around them are one owner. Of the held-out data: the attack in report.md
    is then on owners."""
    record_format: RecordFormat = "auto"
    """Which columns a language model learns from; auto takes the format whose columns are there,
    and refuses where they are those of several. `conversations` and `instruction_output` are the
    columns of ShareGPT's and Alpaca's files, under their own names. A classifier always reads text
    and label; preferences are always read from the columns of the two answers."""
    column_names: tuple[str, ...] | None = None
    """Names of all columns, in order, of a CSV or TSV file that has no header line, or of a file
    with a word on each line."""
    split: str = "train"
    """Split of a hub dataset, or of a saved folder that has several. Files have none."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        if not self.path:
            raise ValueError("path must name a file, a folder or a hub dataset, got ''")
        # They are written into files, after the training.
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            texts = value if isinstance(value, tuple) else (value,)
            if any(isinstance(text, str) and has_half_surrogate(text) for text in texts):
                raise ValueError(
                    f"{field.name} must be valid Unicode, got {value!r}. Rename what it names"
                )
        names = self.tag_names
        if names is not None and (len(set(names)) < len(names) or not all(map(str.strip, names))):
            raise ValueError(f"tag_names must be different names, got {list(names)}")
        known = get_args(RecordFormat)
        if self.record_format not in known:
            hint = did_you_mean(self.record_format, known)
            raise ValueError(
                f"record_format must be one of {', '.join(map(repr, known))}, got "
                f"{self.record_format!r}.{hint}"
            )
