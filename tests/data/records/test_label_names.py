"""The label set: order and refusals."""

from __future__ import annotations

import pytest

from dpjax.data import Records, label_names


def labelled(*labels: str) -> Records:
    return Records(["a text"] * len(labels), list(labels))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("b", "a", "b"), ("a", "b")),
        (("10", "9", "-1"), ("-1", "9", "10")),
        (("10", "9", "x"), ("10", "9", "x")),
        (("1", "01", "0"), ("0", "01", "1")),
    ],
)
def test_order(labels, names):
    assert label_names(labelled(*labels)) == names
    assert label_names(labelled(*reversed(labels)), labelled(labels[0])) == names


def test_label_only_in_evaluation():
    message = (
        r"1 label\(s\) occur only in the evaluation data: 'Pos' \(2 of 3\)\. The training data "
        r"has 'neg', 'pos'\. Did you mean 'pos'\?"
    )
    with pytest.raises(ValueError, match=message):
        label_names(labelled("pos", "neg"), labelled("Pos", "neg", "Pos"))


@pytest.mark.parametrize("labels", [(), ("a", "a")])
def test_fewer_than_two_labels(labels):
    with pytest.raises(ValueError, match="at least two"):
        label_names(labelled(*labels), labelled("b"))


def test_long_lists_are_cut():
    train = labelled(*map(str, range(40)), *map(str, range(40)))
    with pytest.raises(ValueError, match=r"'9', … \(40 labels\)"):
        label_names(train, labelled("x"))


def test_free_text_as_labels_is_refused_and_not_shown():
    train = labelled(*(f"message {number}" for number in range(30)))
    with pytest.raises(ValueError, match="30 different labels in 30 training records") as caught:
        label_names(train)
    assert "message" not in str(caught.value)
