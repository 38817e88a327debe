"""Files with a word on each line and a blank line after each sentence, such as those of CoNLL.

The layouts of CoNLL-2000 to CoNLL-2012, CoNLL-U and CoNLL-U Plus are read
(universaldependencies.org/format.html), with columns between tabs or between blanks.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dpjax.basics.option_checks import did_you_mean
from dpjax.data.read.columns import RawColumns, Wanted, column_of, described
from dpjax.data.read.text_lines import kind_of, open_lines
from dpjax.data.source import DataSource

TAGGED = ("words", "tags")

_CONLL_U = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_COLUMNS_OF_FILE = re.compile(r"#\s*global\.columns\s*=(.*)")
_NEW_DOCUMENT = "-DOCSTART-"
_NUMBER = re.compile(r"[+-]?\d+")
# What headers call words. Columns with other names need column_names.
_HEADERS = ("word", "words", "token", "tokens", "form")
# A token of several words, and a word that is not in the text.
_RANGE_OR_EMPTY = re.compile(r"\d+-\d+|\d+\.\d+")
_ID = re.compile(rf"\d+|{_RANGE_OR_EMPTY.pattern}")
Line = tuple[int, str]


def read_word_lines(path: Path, wanted: Wanted) -> RawColumns:
    """The words and tags of each sentence; a position is the line of its first word.

    Raises:
        ValueError: there is no such column, a line has another number of columns, a sentence has no
            words, or the bytes are not UTF-8. Lines are named, but never quoted.
    """
    if wanted.source.owner_column is not None:
        raise ValueError(
            f"{path}: owner_column has no meaning with a word on each line; write one JSON object "
            "for each sentence into a .jsonl file, with a column of owners"
        )
    with open_lines(path, newline="\n") as read:
        lines = [(number, line.strip("\r\n")) for number, line in enumerate(read, start=1)]
    for number, line in lines:
        if "\r" in line:
            raise ValueError(
                f"{path}, line {number}: a carriage return inside the line; end lines by line "
                "feeds, for instance with `tr '\\r' '\\n'`"
            )
    table = _Table.of(path, lines, wanted.source)
    values: dict[str, list[object]] = {field: [] for field in TAGGED}
    positions: list[int] = []
    if table is None:
        return RawColumns(values, positions, "line")
    for first, rows in table.sentences():
        for field, index in zip(TAGGED, (table.words, table.tags), strict=True):
            values[field].append([row[index] for row in rows])
        positions.append(first)
    return RawColumns(values, positions, "line")


@dataclasses.dataclass(frozen=True)
class _Table:
    """The lines of a file, and what their columns are.

    Attributes:
        path: for messages.
        lines: all that may hold words, with their numbers.
        by_tabs: whether columns stand between tabs.
        width: how many columns there are.
        named_by: what says so, for messages.
        words: the column of words, from 0.
        tags: that of their tags.
        has_ids: whether the first column counts the words.
    """

    path: Path
    lines: Sequence[Line]
    by_tabs: bool
    width: int
    named_by: str
    words: int
    tags: int
    has_ids: bool

    @classmethod
    def of(cls, path: Path, lines: Sequence[Line], source: DataSource) -> _Table | None:
        """Finds out what the columns are; None for a file without words."""
        texts = [(n, line) for n, line in lines if _may_hold_words(line)]
        if not texts:
            return None
        (number, first), by_tabs = texts[0], "\t" in texts[0][1]
        names, named_by = _names_of(path, lines, source)
        row = _split(first, by_tabs)
        if names is None and all(column_of(source, field) in row for field in TAGGED):
            # A header.
            names, named_by = row, f"line {number}"
            lines = [(n, line) for n, line in lines if n > number]
        width = len(row if names is None else names)
        counts = all(_ID.fullmatch(_split(line, by_tabs)[0]) for _, line in texts)
        words, tags = _chosen(path, source, names, width, counts)
        has_ids = counts and words != 0 if names is None else names[0].upper() == "ID"
        named_by = named_by or f"line {number}"
        table = cls(path, lines, by_tabs, width, named_by, words, tags, has_ids)
        if names is None:
            table.check_first(number, row)
        return table

    def check_first(self, number: int, row: list[str]) -> None:
        """Refuses a first line that looks like a header: it would be a word with a tag of its own.

        Raises:
            ValueError: the line has a usual name in the place of the word, and its tag is in no
                other line.
        """
        if len(row) != self.width or row[self.words].lower() not in _HEADERS:
            return
        others = [(n, line) for n, line in self.lines if n != number]
        if row[self.tags] not in dataclasses.replace(self, lines=others)._plain_tags():
            raise ValueError(
                f"{self.path}, line {number} looks like a header; name its columns, "
                f"words_column={row[self.words]!r} and tags_column={row[self.tags]!r}, or take the "
                "line out"
            )

    def sentences(self) -> Iterator[tuple[int, list[list[str]]]]:
        """The number of the first line, and the columns of each word, for each sentence."""
        tags = self._plain_tags()
        rows: list[list[str]] = []
        first, skipped = 0, 0
        for number, line in (*self.lines, (0, "")):
            if _is_blank(line) or line.startswith(_NEW_DOCUMENT):
                if rows:
                    yield first, rows
                elif skipped:
                    raise ValueError(f"{self.path}, line {skipped}: a sentence without words")
                rows, skipped = [], 0
                continue
            row = _split(line, self.by_tabs)
            if self._is_comment(line, row, tags, is_inside=bool(rows)):
                continue
            if self.has_ids and _RANGE_OR_EMPTY.fullmatch(row[0]):
                skipped = skipped or number
                continue
            if len(row) != self.width:
                raise ValueError(
                    f"{self.path}, line {number}: {len(row)} column(s), but {self.named_by} has "
                    f"{self.width}; all lines of words have as many"
                )
            first = number if not rows else first
            rows.append(row)

    def _plain_tags(self) -> set[str]:
        """The tags of all lines that cannot be comments."""
        rows = (_split(line, self.by_tabs) for _, line in self.lines if _may_hold_words(line))
        return {row[self.tags] for row in rows if len(row) == self.width}

    def _is_comment(self, line: str, row: list[str], tags: set[str], *, is_inside: bool) -> bool:
        """Whether a line with # is a comment, and not the word # or a hashtag.

        Comments stand before the first word of a sentence. One that has as many columns as a word
        does not end with a tag that other words have.
        """
        if not line.startswith("#"):
            return False
        if self.has_ids:
            return True
        return not is_inside and (len(row) != self.width or row[self.tags] not in tags)


def _is_blank(line: str) -> bool:
    return not line.strip(" \t")


def _may_hold_words(line: str) -> bool:
    """Whether a line is neither blank, nor the beginning of a document, nor maybe a comment."""
    return not (_is_blank(line) or line.startswith(("#", _NEW_DOCUMENT)))


def _split(line: str, by_tabs: bool) -> list[str]:
    """The columns. Other characters that count as blank, such as U+00A0, are parts of words."""
    return line.split("\t") if by_tabs else re.split("[ \t]+", line.strip(" \t"))


def _names_of(
    path: Path, lines: Sequence[Line], source: DataSource
) -> tuple[Sequence[str] | None, str]:
    """The names of the columns and what gives them; None where nothing does."""
    if source.column_names is not None:
        return source.column_names, "column_names"
    for number, line in lines:
        stated = _COLUMNS_OF_FILE.fullmatch(line)
        if stated is not None:
            return stated[1].split(), f"line {number}"
        if _may_hold_words(line):
            break
    return (_CONLL_U, "CoNLL-U") if kind_of(path) == ".conllu" else (None, "")


def _chosen(
    path: Path, source: DataSource, names: Sequence[str] | None, width: int, counts: bool
) -> tuple[int, int]:
    """The columns of words and tags, from 0."""
    words = _index(path, source, "words", names, width)
    tags = _index(path, source, "tags", names, width)
    if words == tags:
        raise ValueError(
            f"{path}: words_column and tags_column are both column {words + 1} of {width}; they "
            "must differ"
        )
    is_default = source.words_column == DataSource.words_column
    if names is None and is_default and counts:
        raise ValueError(
            f"{path}: the first column counts words, as in CoNLL-U; say where the words are, for "
            "instance words_column=2 and tags_column=4"
        )
    return words, tags


def _index(
    path: Path, source: DataSource, field: str, names: Sequence[str] | None, width: int
) -> int:
    """The column of a field from 0, by its number, its name, or where it usually is."""
    column = column_of(source, field)
    if names is not None and column in names:
        return list(names).index(column)
    if _NUMBER.fullmatch(column):
        number = int(column)
        if not 1 <= abs(number) <= width:
            raise ValueError(
                f"{path} has no column {number}: its lines have {width} columns, from 1, or from "
                f"-1 at the end. Set {field}_column"
            )
        return number - 1 if number > 0 else width + number
    is_default = column == getattr(DataSource, f"{field}_column")
    if names is None and is_default:
        return 0 if field == "words" else width - 1
    if names == _CONLL_U and is_default and field == "words":
        return names.index("FORM")
    if names is None:
        raise ValueError(
            f"{path} does not name its columns, and {described(source, field)} is no number: give "
            "the number of a column, from 1, or from -1 at the end, or all names in column_names"
        )
    hint = did_you_mean(column, names, prefix=f"{field}_column=") or f" Set {field}_column."
    raise ValueError(
        f"{path} has no column {column!r}; its columns: {', '.join(map(repr, names))}.{hint}"
    )
