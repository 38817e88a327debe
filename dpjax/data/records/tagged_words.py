"""Texts as words with a tag each, checked: what a token classifier learns from."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from itertools import chain

from dpjax.data.read.columns import Wanted
from dpjax.data.read.read import read_columns
from dpjax.data.read.word_lines import TAGGED
from dpjax.data.records.base import RecordColumns
from dpjax.data.records.checks import Checked, check_label, check_records, check_text
from dpjax.data.source import DataSource


@dataclasses.dataclass(frozen=True)
class TaggedWords(RecordColumns):
    """The words of each text and their tags, in the order of the source.

    No list is empty, and both lists of a record have one length.

    Example:
        >>> TaggedWords(words=[["Anna", "slept"]], tags=[["NAME", "O"]]).labels
        ['NAME', 'O']
    """

    words: list[list[str]]
    tags: list[list[str]]

    @property
    def labels(self) -> list[str]:
        """The tags of all words."""
        return list(chain.from_iterable(self.tags))


def read_tagged_words(source: DataSource) -> TaggedWords:
    r"""Reads and checks every record of `source`.

    Tags become strings as labels do in `read_records`; numbers become their `tag_names`. One
    sentence of a file with a word on each line is one record.

    Raises:
        FileNotFoundError: there is no such file or dataset; names similar files.
        ValueError: the source cannot be read as said, or a record lacks words, a tag, or has more
            of one than of the other, or a tag is not the number of one of `tag_names`. Lines are
            named, but never quoted: they are private.

    Example:
        >>> from pathlib import Path
        >>> record = '{"tokens": ["Anna", "slept"], "tags": ["NAME", "O"]}'
        >>> _ = Path("names.jsonl").write_text(record)
        >>> read_tagged_words(DataSource("names.jsonl"))
        TaggedWords(words=[['Anna', 'slept']], tags=[['NAME', 'O']])
        >>> _ = Path("names.conll").write_text("Anna NNP NAME\nslept VBD O\n")
        >>> read_tagged_words(DataSource("names.conll"))
        TaggedWords(words=[['Anna', 'slept']], tags=[['NAME', 'O']])
    """
    raw = read_columns(Wanted(source, (TAGGED,)))
    checked = check_records(raw, source, functools.partial(_check, source.tag_names))
    return TaggedWords(*checked.columns, owners=checked.owners)


def _check(names: Sequence[str] | None, words: object, tags: object) -> tuple[Checked, Checked]:
    checked_words = _check_list(words, "words", lambda word: check_text(word, "a word"))
    checked_tags = _check_list(tags, "tags", lambda tag: _named(check_label(tag, "a tag"), names))
    no_problem = checked_words[1] is None and checked_tags[1] is None
    if no_problem and len(checked_words[0]) != len(checked_tags[0]):
        return checked_words, ([], "another number of tags than of words")
    return checked_words, checked_tags


def _named(tag: Checked, names: Sequence[str] | None) -> Checked:
    """A tag that is a number under its name, where there are names."""
    text, problem = tag
    if names is None or problem is not None:
        return tag
    if not (text.isdecimal() and int(text) < len(names)):
        return text, f"a tag that is not the number of one of {len(names)} tag_names"
    return names[int(text)].strip(), None


def _check_list(value: object, name: str, check: Callable[[object], Checked]) -> Checked:
    if value is None or value == []:
        return [], f"{name} missing or empty"
    if not isinstance(value, list):
        return [], f"{name} of type {type(value).__name__} instead of list"
    checked = [check(item) for item in value]
    problem = next((problem for _, problem in checked if problem), None)
    return [item for item, _ in checked], problem
