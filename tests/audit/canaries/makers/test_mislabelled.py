"""Mislabelled records: real texts, never their own label."""

from collections import Counter

import pytest

from dpjax.audit.canaries.makers.mislabelled import make_mislabelled
from dpjax.data import Records
from dpjax.privatize import RunKey

KEY = RunKey.from_seed(21)
NAMES = ("a", "b", "c")
HELD_OUT = Records([f"text {row}" for row in range(600)], [NAMES[row % 3] for row in range(600)])


def make(num=300, held_out=HELD_OUT, label_names=NAMES, key=KEY):
    return make_mislabelled(num, run_key=key, held_out=held_out, label_names=label_names)


def test_no_label_is_the_records_own_and_all_others_are_likely():
    canaries = make()
    pairs = Counter()
    for row, text, label in zip(
        canaries.source_rows, canaries.records.texts, canaries.records.labels, strict=True
    ):
        assert text == HELD_OUT.texts[row]
        pairs[HELD_OUT.labels[row], label] += 1
    assert set(pairs) == {(own, other) for own in NAMES for other in NAMES if own != other}
    assert all(25 <= count <= 75 for count in pairs.values())
    assert len(set(canaries.records.texts)) == 300
    assert canaries.secrets == tuple(canaries.records.labels)


def test_the_key_decides():
    assert make().records == make().records
    assert make().source_rows != make(key=RunKey.from_seed(22)).source_rows


def test_texts_that_repeat_count_once():
    held_out = Records(["x", "x", "y"], ["a", "a", "b"])
    assert sorted(make(2, held_out).records.texts) == ["x", "y"]
    with pytest.raises(ValueError, match="need as many different texts, got 2"):
        make(3, held_out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_names": ("a",)}, "two or more"),
        ({"label_names": ("a", "a", "b", "c")}, "two or more"),
        ({"label_names": ("a", "b")}, "held_out must have labels of label_names, got 'c'"),
        ({"num": 0}, "num_canaries must be a whole number"),
        ({"num": True}, "num_canaries must be a whole number"),
        ({"num": 2.0}, "num_canaries must be a whole number"),
    ],
)
def test_what_cannot_be_mislabelled_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)
