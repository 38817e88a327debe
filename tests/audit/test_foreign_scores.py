"""Scores of other programs: read from CSV, joined by id."""

import numpy as np
import pytest

from dpjax.audit import join_scores, read_scores


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_in_any_order_with_others_beside_them(tmp_path):
    path = write(tmp_path / "in.csv", "\ufeffscore,note,id\n1.5,x,b\n-inf,,a\n")
    assert read_scores(path) == {"b": 1.5, "a": -np.inf}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its header is missing"),
        ("id,scor\na,1\n", "Did you mean 'scor'"),
        ("id,score\n", "holds no scores"),
        ("id,score\na,1\na,2\n", "line 3: the id 'a' is there twice"),
        ("id,score\n,1\n", "line 2: the id is empty"),
        ("id,score\na,much\n", "line 2: the score 'much' is no number"),
        ("id,score\na\n", "the score None is no number"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_scores(write(tmp_path / "in.csv", text))


def test_canaries_are_ordered_by_id():
    joined = join_scores({"c": 3.0, "a": 1.0}, {"b": 2.0}, score="loss")
    assert joined.ids == ["a", "b", "c"] and joined.score == "loss"
    assert joined.included.tolist() == [True, False, True]
    assert joined.scores.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("members", "nonmembers", "expected", "message"),
    [
        ({"a": 1.0}, {"a": 2.0}, None, "members and non-members: a"),
        ({"a": 1.0}, {"b": 2.0}, ("a", "b", "c"), "the manifest have no score: c"),
        ({"a": 1.0}, {"canary-12": 2.0}, ("a", "canary-1"), "have no score: canary-1"),
        ({"a": 1.0, "canary-12": 0.0}, {"canary-1": 2.0}, ("a", "canary-1"), "no id 'canary-12'"),
    ],
)
def test_ids_that_do_not_fit_are_an_error(members, nonmembers, expected, message):
    with pytest.raises(ValueError, match=message):
        join_scores(members, nonmembers, expected_ids=expected)
