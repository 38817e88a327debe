"""ROUGE-L: how much of one text stands in another, in order."""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z0-9]+")


def rouge_l(written: str, reference: str) -> float:
    """Returns the F-measure of ROUGE-L, from 0 to 1 (Lin 2004, section 3, with β = 1).

    2 P R / (P + R) with P and R the length of the longest common subsequence of words over the
    number of words written and in the reference. Words are runs of a-z and 0-9 after lower-casing,
    as in the package rouge-score. 0 where either text has none.

    Args:
        written: a text.
        reference: what it should be.

    Example:
        >>> rouge_l("The cat sat.", "the black cat sat down")
        0.75
    """
    words, wanted = _words(written), _words(reference)
    common = _longest_common(words, wanted)
    return 2 * common / (len(words) + len(wanted)) if common else 0.0


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _longest_common(some: list[str], others: list[str]) -> int:
    """Length of the longest common subsequence, row by row."""
    row = [0] * (len(others) + 1)
    for word in some:
        before = row
        row = [0]
        for place, other in enumerate(others):
            longer = before[place] + 1 if word == other else max(before[place + 1], row[place])
            row.append(longer)
    return row[-1]
