"""ROUGE-L, the difference of two AUCs, and the verdict."""

import dataclasses
import json

import numpy as np
import pytest

from dpjax.unlearning.measures.auc_difference import auc_difference
from dpjax.unlearning.measures.model import Measured
from dpjax.unlearning.measures.overlap import rouge_l
from dpjax.unlearning.measures.truth_ratio import (
    forget_quality,
    median_ratio,
    read_questions,
    truth_ratio,
)
from dpjax.unlearning.measures.verdict import judge, judge_controls

WORDS = ("The", "cat", "sat", "on", "the", "mat", "42")


def test_rouge_l_is_that_of_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    draws = np.random.default_rng(0)
    for _ in range(30):
        one, other = (" ".join(draws.choice(WORDS, draws.integers(1, 9))) for _ in range(2))
        expected = scorer.score(other, one)["rougeL"].fmeasure
        assert rouge_l(one, other) == pytest.approx(expected)


def test_rouge_l_of_texts_without_words():
    assert rouge_l("...", "a") == rouge_l("a", "") == rouge_l("", "") == 0.0
    assert rouge_l("Same, text!", "same text") == 1.0


def test_interval_of_a_difference_covers_it_and_pairing_narrows_it():
    draws = np.random.default_rng(1)
    covered, widths = 0, []
    for _ in range(300):
        shared = draws.normal(size=60) + np.r_[np.full(30, 0.7), np.zeros(30)]
        one, other = (shared + 0.3 * draws.normal(size=60) for _ in range(2))
        # Both models have the same AUC in expectation.
        _, (low, high) = auc_difference(one[:30], one[30:], other[:30], other[30:])
        covered += low <= 0 <= high
        widths.append(high - low)
    assert 0.9 <= covered / 300 <= 0.99
    unpaired = draws.normal(size=(4, 30))
    _, (low, high) = auc_difference(*unpaired)
    assert np.mean(widths) < high - low


def test_difference_of_perfect_attacks_has_a_wide_interval():
    scores = np.ones(5), np.zeros(5)
    difference, (low, high) = auc_difference(*scores, *scores)
    assert difference == 0 and low < -0.3 and high > 0.3
    assert auc_difference([1.0], [0.0], [1.0], [0.0])[1] == (-1.0, 1.0)


def test_truth_ratio_by_hand():
    # Three wrong answers of probabilities 0.1, 0.2 and 0.6 per token have the mean 0.3; the right
    # one has 0.5 per token, two tokens of 0.25 and 1.
    right = np.mean(np.log([0.25, 1.0]))
    assert np.exp(truth_ratio(right, np.log([0.1, 0.2, 0.6]))) == pytest.approx(0.6)
    assert np.exp(truth_ratio(-2000.0, [-2000.0])) == pytest.approx(1.0)
    assert median_ratio(np.log([0.1, 0.3, 9.0])) == pytest.approx(0.3)
    assert np.isfinite(median_ratio(np.array([5000.0])))


def test_forget_quality_is_small_where_models_differ():
    draws = np.random.default_rng(0)
    near, far = draws.normal(size=50), draws.normal(3.0, size=50)
    assert forget_quality(near, draws.normal(size=50))["p_value"] > 0.05
    found = forget_quality(far, near)
    assert found["p_value"] < 1e-6 and found["statistic"] > 0.5


def test_questions_are_read_and_wrong_ones_refused_with_their_line(tmp_path):
    path = tmp_path / "questions.jsonl"
    good = {"prompt": "a:", "paraphrase": " one", "perturbed": [" two", " three"]}

    def read(*rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_questions(path, {"a:", "b:"})

    found = read(good, good | {"prompt": "b:"})
    assert found.prompts == ["a:", "b:"] and found.perturbed[0] == [" two", " three"]
    for bad, message in (
        (good | {"prompt": "c:"}, "line 2: its prompt is not that of a record to forget"),
        (good | {"perturbed": []}, "line 2: prompt and paraphrase must be texts"),
        (good | {"perturbed": "two"}, "perturbed a list"),
        (good | {"paraphrase": " "}, "none of them blank"),
        ({"prompt": "a:", "perturbed": ["x"]}, "must have prompt, paraphrase, perturbed, got"),
    ):
        with pytest.raises(ValueError, match=message):
            read(good, bad)
    with pytest.raises(ValueError, match="holds no question"):
        read()
    path.write_text("no json")
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        read_questions(path, {"a:"})
    with pytest.raises(FileNotFoundError, match="truth_ratio must name one"):
        read_questions(tmp_path / "none", {"a:"})


def test_questions_are_read_as_training_records_are(tmp_path):
    path = tmp_path / "questions.jsonl"
    row = {"prompt": "a\u2028:", "paraphrase": "one", "perturbed": ["two"]}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row, ensure_ascii=False).encode() + b"\n")
    assert read_questions(path, {"a\u2028:"}).prompts == ["a\u2028:"]
    path.write_bytes(
        json.dumps(row | {"prompt": "\u00e9"}, ensure_ascii=False).encode("latin1", "replace")
    )
    with pytest.raises(ValueError, match=r"line 1 is not UTF-8 text .* convert it"):
        read_questions(path, {"a"})


def test_stored_measures_come_back_to_the_last_digit():
    before = Measured({"forget": {"loss": 1 / 3}}, np.array([0.1, 1e-9]), np.zeros(1), 0.7)
    for measures in (before, dataclasses.replace(before, log_truth_ratios=np.array([1 / 7]))):
        again = Measured.from_stored(json.loads(json.dumps(measures.to_stored())))
        assert again.to_stored() == measures.to_stored()
        assert again.forget_scores.dtype == np.float64


def measured(forget, retain, shift, held_out=3.0):
    numbers = {part: {"loss": loss} for part, loss in (("forget", forget), ("retain", retain))}
    scores = np.linspace(-1, 1, 40)
    return Measured(numbers | {"held_out": {"loss": held_out}}, scores + shift, scores, forget)


ORIGINAL, RETRAINED = measured(0.1, 0.1, 1.5), measured(3.0, 0.1, 0.0)


@pytest.mark.parametrize("baseline", (RETRAINED, None))
@pytest.mark.parametrize(
    ("unlearned", "over", "under"),
    [
        (measured(3.1, 0.2, 0.0), 0, 0),
        (measured(4.1, 0.2, 0.0), 1, 0),
        (measured(3.1, 0.7, 0.0), 1, 0),
        (measured(3.1, 0.2, -1.5), 1, 0),
        (measured(9.0, 2.0, -1.5), 3, 0),
        (measured(0.1, 0.1, 1.5), 0, 1),
    ],
)
def test_verdict_by_the_rule(unlearned, over, under, baseline):
    verdict = judge(ORIGINAL, unlearned, baseline, confidence=0.95)
    assert (len(verdict.over_reasons), len(verdict.under_reasons)) == (over, under)
    assert verdict.over_unlearned == (over > 0) and verdict.under_unlearned == (under > 0)
    assert (verdict.difference is None) == (baseline is None)


def test_controls_tell_records_that_suit_the_rule_from_those_that_do_not():
    def flags(original, retrained):
        controls = judge_controls(original, retrained, confidence=0.95)
        return {name: (one.over_unlearned, one.under_unlearned) for name, one in controls.items()}

    neither, under = (False, False), (False, True)
    assert flags(ORIGINAL, RETRAINED) == {"original": under, "retrained": neither}
    assert flags(ORIGINAL, None) == {"original": under}
    # A model that has learnt nothing, and a baseline that ranks records which it never saw.
    assert flags(measured(3.0, 3.0, 0.0), RETRAINED)["original"] == neither
    assert flags(ORIGINAL, measured(3.0, 0.1, 1.5))["retrained"] == under
