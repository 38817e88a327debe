"""Spans beside a naive reading of conlleval's rules, and counts beside those written by hand."""

import itertools

import pytest

from dpjax.finetuning.tasks.tag_spans import SpanCounts, count_spans, find_spans, mark_spans, sum_of


def split(tag):
    letter, _, kind = tag.partition("-")
    return letter, kind


def ends(before, tag):
    """Whether a span ends between two tags, as conlleval has it, case by case."""
    (letter_before, kind_before), (letter, kind) = split(before), split(tag)
    cases = {("B", "B"), ("B", "S"), ("B", "O"), ("I", "B"), ("I", "S"), ("I", "O")}
    if letter_before in ("E", "S") or (letter_before, letter) in cases:
        return True
    return letter_before != "O" and kind_before != kind


def starts(before, tag):
    """Whether a span starts at the second of two tags."""
    (letter_before, kind_before), (letter, kind) = split(before), split(tag)
    cases = {("E", "E"), ("E", "I"), ("S", "E"), ("S", "I"), ("O", "E"), ("O", "I")}
    if letter in ("B", "S") or (letter_before, letter) in cases:
        return True
    return letter != "O" and kind_before != kind


def naive_spans(tags):
    """One word after the other, with a span that is open or not."""
    spans, opened, before = [], None, "O"
    for position, tag in enumerate([*tags, "O"]):
        if opened is not None and ends(before, tag):
            spans.append((opened, position - 1, split(before)[1]))
            opened = None
        if starts(before, tag):
            opened = position
        before = tag
    return spans


def test_every_short_sentence_has_the_spans_of_conlleval():
    tags = ["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in ("X", "Y"))]
    for length in range(5):
        for sentence in itertools.product(tags, repeat=length):
            assert find_spans(sentence) == naive_spans(sentence), sentence


@pytest.mark.parametrize(
    "tags",
    [
        # IOB1, IOB2, BIOES and BILOU of the same spans.
        ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-ORG"],
        ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "B-ORG"],
        ["B-PER", "E-PER", "O", "S-LOC", "S-LOC", "S-ORG"],
        ["B-PER", "L-PER", "O", "U-LOC", "U-LOC", "U-ORG"],
    ],
)
def test_all_schemes_mark_the_same_spans(tags):
    assert find_spans(tags) == [(0, 1, "PER"), (3, 3, "LOC"), (4, 4, "LOC"), (5, 5, "ORG")]


def test_a_span_counts_only_whole_and_with_its_type():
    there = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]
    predicted = [["B-PER", "O", "O", "B-LOC"], ["B-PER", "O"]]
    counts = count_spans(predicted, there)
    assert counts == {"LOC": SpanCounts(1, 1, 2), "PER": SpanCounts(0, 2, 1)}
    total = sum_of(counts.values())
    assert (total.precision, total.recall, total.f1) == (1 / 3, 1 / 3, 1 / 3)


def test_the_same_span_of_another_sentence_is_not_right():
    assert count_spans([["B-X", "O"], ["O"]], [["O", "O"], ["B-X"]]) == {"X": SpanCounts(0, 1, 1)}


def test_nothing_predicted_and_nothing_there():
    assert SpanCounts(0, 0, 3).precision == SpanCounts(0, 0, 3).f1 == 0
    assert SpanCounts(0, 2, 0).recall == SpanCounts(0, 0, 0).f1 == 0
    assert count_spans([["O"]], [["O"]]) == {} and sum_of([]) == SpanCounts(0, 0, 0)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["O", "I-PER"], True),
        (["B-LOC", "S-PER"], True),
        (["O", "PER"], False),
        (["NOUN", "X-ray"], False),
        (["O", "B-"], False),
        (["O"], False),
    ],
)
def test_tags_mark_spans_or_not(labels, expected):
    assert mark_spans(labels) is expected
