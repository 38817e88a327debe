"""Exposure and extraction of the canaries of an audit."""

import numpy as np
import pytest

from dpjax.audit import extract_canaries, statistics_from_logits

NUM, LENGTH, WORDS = 200, 6, 50


def statistics(included, learnt):
    """Of random secrets of four tokens after two given ones; the learnt ones are likely."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(NUM, LENGTH, WORDS))
    tokens = rng.integers(0, WORDS, (NUM, LENGTH))
    rows, columns = np.ix_(np.flatnonzero(included), np.arange(LENGTH))
    logits[rows, columns, tokens[rows, columns]] += learnt
    is_target = np.zeros((NUM, LENGTH), bool)
    is_target[:, 2:] = True
    return statistics_from_logits(logits, tokens, is_target)


@pytest.fixture(scope="module")
def included():
    return np.random.default_rng(1).random(NUM) < 0.5


def figures(learnt, included):
    return {f.name: f for f in extract_canaries(statistics(included, learnt), included)}


def test_learnt_secrets_are_exposed_and_extracted(included):
    found = figures(20.0, included)
    num_references = (NUM - included.sum() + 1) // 2
    np.testing.assert_allclose(found["exposure_by_rank"].values, np.log2(num_references))
    assert found["exposure_by_sampling"].value > np.log2(num_references)
    for name in ("discoverable_extraction", "sampled_extraction", "exact_memorisation"):
        assert found[name].value == 1 and found[name].held_out_value < 0.1
    assert found["extraction_strength"].value == 1
    assert len(found["exact_memorisation"].held_out_values) == NUM - included.sum()


def test_nothing_learnt_is_no_exposure(included):
    found = figures(0.0, included)
    for figure in found.values():
        assert abs(figure.value - figure.held_out_value) < 0.35
    # The mean exposure of a secret that is no better than its references: 1 / ln 2 bits.
    assert found["exposure_by_rank"].value == pytest.approx(1 / np.log(2), abs=0.35)


def test_too_few_canaries_have_no_figures(included):
    tokens = statistics(included, 1.0)
    for coins in (np.ones(NUM, bool), np.zeros(NUM, bool), np.arange(NUM) > 0):
        assert extract_canaries(tokens, coins) == ()
    few = np.arange(NUM) >= 10
    names = [figure.name for figure in extract_canaries(tokens, few)]
    assert "exposure_by_rank" in names and "exposure_by_sampling" not in names
    with pytest.raises(ValueError, match=r"included must be \(200,\)"):
        extract_canaries(tokens, few[1:])
