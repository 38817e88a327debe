"""Synthetic records that hold a whole training record, or a long part of one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from dpjax.synthesis.comparison.words import Words, ngrams

# Shorter records, such as "thank you", are in texts that nobody has copied.
FEWEST_WORDS = 5
LONG_NGRAM = 8


def count_copies(synthetic: Sequence[Words], real: Sequence[Words]) -> dict[str, Any]:
    """Counts copies, by words: case and punctuation do not matter.

    Args:
        synthetic: the words of each synthetic record.
        real: those of each training record.

    Returns:
        Numbers of synthetic records: `equal` to a training record of any length; with a `whole`
        training record of at least 5 words in them; with a `long_part`, 8 words in a row that a
        training record has too. And `training_records_copied`, how many different training records
        are whole in some synthetic one.
    """
    texts = set(real)
    by_beginning: defaultdict[Words, list[Words]] = defaultdict(list)
    for words in texts:
        if len(words) >= FEWEST_WORDS:
            by_beginning[words[:FEWEST_WORDS]].append(words)
    long_parts = {gram for words in texts for gram in ngrams(words, LONG_NGRAM)}
    copied: set[Words] = set()
    num_equal = num_whole = num_long = 0
    for words in synthetic:
        inside = {
            record
            for start, gram in enumerate(ngrams(words, FEWEST_WORDS))
            for record in by_beginning.get(gram, ())
            if words[start : start + len(record)] == record
        }
        copied |= inside
        num_whole += bool(inside)
        num_equal += bool(words) and words in texts
        num_long += any(gram in long_parts for gram in ngrams(words, LONG_NGRAM))
    return {
        "equal": num_equal,
        "whole": num_whole,
        "long_part": num_long,
        "training_records_copied": len(copied),
        "fewest_words_of_a_whole_record": FEWEST_WORDS,
        "words_of_a_long_part": LONG_NGRAM,
    }
