"""Spans that tags of words mark, such as B-PER I-PER, and how many of them a model finds.

The rules are those of `conlleval`, by which CoNLL-2000 to CoNLL-2003 were evaluated: a span is
found if its first word, its last word and its type are right. One reading serves IOB1, IOB2 (BIO)
and BIOES (IOBES, BILOU), and has a span for every sequence of tags, also one that breaks the rules
of its scheme, such as O I-PER.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

Span = tuple[int, int, str]

# Letters of words that begin a span whatever stands before them, and of those that end one.
_BEGINS, _ENDS = ("B", "S", "U"), ("E", "L", "S", "U")
_LETTERS = frozenset("IBESLU")


@dataclasses.dataclass(frozen=True)
class SpanCounts:
    """How many spans there are, are predicted, and are both."""

    right: int
    predicted: int
    there: int

    @property
    def precision(self) -> float:
        """Share of the predicted spans that are there; 0 without any."""
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Share of the spans there that are predicted; 0 without any."""
        return self.right / self.there if self.there else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 if none is right."""
        total = self.predicted + self.there
        return 2 * self.right / total if total else 0.0


def mark_spans(labels: Sequence[str]) -> bool:
    """Whether these tags mark spans: all but O are a letter of one of the schemes and a type.

    Example:
        >>> mark_spans(["O", "B-PER", "I-PER"]), mark_spans(["NOUN", "VERB"])
        (True, False)
    """
    others = [label for label in labels if label != "O"]
    return bool(others) and all(
        letter in _LETTERS and dash and kind
        for letter, dash, kind in (label.partition("-") for label in others)
    )


def find_spans(tags: Sequence[str]) -> list[Span]:
    """Finds the spans of a sentence: first word, last word, type.

    Example:
        >>> find_spans(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"])
        [(0, 1, 'PER'), (3, 3, 'LOC'), (4, 4, 'LOC')]
    """
    spans: list[Span] = []
    first, before, kind_before = 0, "O", ""
    for position, tag in enumerate([*tags, "O"]):
        letter, _, kind = tag.partition("-")
        goes_on = (
            before != "O"
            and letter != "O"
            and kind == kind_before
            and before not in _ENDS
            and letter not in _BEGINS
        )
        if not goes_on:
            if before != "O":
                spans.append((first, position - 1, kind_before))
            first = position
        before, kind_before = letter, kind
    return spans


def count_spans(
    predicted: Iterable[Sequence[str]], there: Iterable[Sequence[str]]
) -> dict[str, SpanCounts]:
    """Counts the spans of all sentences by type, in the order of the types' names.

    Args:
        predicted: tags of each sentence.
        there: the right tags of the same words.

    Example:
        >>> count_spans([["B-PER", "O"]], [["B-PER", "B-LOC"]])["PER"]
        SpanCounts(right=1, predicted=1, there=1)
    """
    right, guessed, present = (collections.Counter[str]() for _ in range(3))
    for own, gold in zip(predicted, there, strict=True):
        found, wanted = set(find_spans(own)), set(find_spans(gold))
        guessed.update(kind for *_, kind in found)
        present.update(kind for *_, kind in wanted)
        right.update(kind for *_, kind in found & wanted)
    kinds = sorted(guessed.keys() | present.keys())
    return {kind: SpanCounts(right[kind], guessed[kind], present[kind]) for kind in kinds}


def sum_of(counts: Iterable[SpanCounts]) -> SpanCounts:
    """The counts of all types together, from which F1 is the micro average.

    Example:
        >>> sum_of([SpanCounts(1, 2, 1), SpanCounts(0, 1, 2)]).f1 == 2 / 6
        True
    """
    fields = [(c.right, c.predicted, c.there) for c in counts]
    right, predicted, there = (sum(column) for column in zip((0, 0, 0), *fields, strict=True))
    return SpanCounts(right, predicted, there)
