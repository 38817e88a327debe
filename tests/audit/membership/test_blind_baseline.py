"""A bag of words that sees no model: it separates what differs, and nothing else."""

import numpy as np
import pytest
from scipy import stats

from dpjax.audit import blind_baseline

WORDS = [f"w{index}" for index in range(300)]


def random_texts(rng, count, words=WORDS, length=8):
    return [" ".join(rng.choice(words, length)) for _ in range(count)]


@pytest.mark.parametrize(("num_members", "num_nonmembers"), [(20, 20), (20, 100), (60, 40)])
def test_random_splits_are_rarely_separated(num_members, num_nonmembers):
    rng = np.random.default_rng(0)
    separated, areas = 0, []
    for _ in range(60):
        texts = random_texts(rng, num_members + num_nonmembers)
        found = blind_baseline(texts[:num_members], texts[num_members:])
        separated += found.separates
        areas.append(found.auc)
    assert separated <= stats.binom.ppf(0.999, 60, 0.01)
    assert np.mean(areas) == pytest.approx(0.5, abs=0.05)


def test_random_splits_of_repeated_texts_are_not_separated():
    rng = np.random.default_rng(1)
    texts = [f"text {index}" for index in rng.integers(0, 10, 200)]
    assert not blind_baseline(texts[:100], texts[100:]).separates


@pytest.mark.parametrize(
    ("member", "nonmember"),
    [
        ("written in 2019, number {}", "written in 2024, number {}"),
        ("The model {} works", "the model {} does not"),
        # Only the order of the words differs.
        ("alpha beta {} gamma", "beta alpha {} gamma"),
    ],
)
def test_sets_that_differ_are_separated(member, nonmember):
    found = blind_baseline(
        [member.format(i) for i in range(40)], [nonmember.format(i) for i in range(40)]
    )
    assert found.separates and found.auc > 0.9 and found.p_value == 1 / 200


def test_a_slight_shift_is_found_with_enough_texts():
    rng = np.random.default_rng(2)
    members = random_texts(rng, 300, WORDS[:220], length=12)
    assert blind_baseline(members, random_texts(rng, 300, length=12)).separates


@pytest.mark.parametrize("texts", [[""] * 20, ["a b"] * 20])
def test_equal_or_empty_texts_are_not_separated(texts):
    assert not blind_baseline(texts, texts).separates


def test_the_answer_is_the_same_twice_and_the_case_of_letters_is_nothing():
    rng = np.random.default_rng(3)
    members, nonmembers = random_texts(rng, 30), random_texts(rng, 30)
    found = blind_baseline(members, nonmembers)
    assert found == blind_baseline([text.upper() for text in members], nonmembers)


@pytest.mark.parametrize(
    ("members", "nonmembers", "error", "message"),
    [
        (["a"] * 9, ["b"] * 10, ValueError, "member_texts must hold at least 10 texts; got 9"),
        (["a"] * 10, [], ValueError, "nonmember_texts must hold at least 10 texts; got 0"),
        ([None] * 10, ["b"] * 10, TypeError, "member_texts must hold strings"),
    ],
)
def test_bad_texts_are_refused(members, nonmembers, error, message):
    with pytest.raises(error, match=message):
        blind_baseline(members, nonmembers)
