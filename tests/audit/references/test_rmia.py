"""RMIA against known numbers and a loop over pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax.audit import rmia_log_ratios, rmia_scores

X = np.log([0.9]), np.log([[0.4]]), [[False]]
Z = np.log([0.8, 0.6, 0.3]), np.log([[0.75, 0.6, 0.15]])


def test_known_ratios():
    assert np.exp(rmia_log_ratios(*X)) == pytest.approx([1.475410], abs=5e-7)
    ratios = np.exp(rmia_log_ratios(*Z, np.zeros((1, 3), bool), a=0.3))
    assert ratios == pytest.approx([0.955224, 0.810811, 0.670391], abs=5e-7)


@pytest.mark.parametrize(("gamma", "expected"), [(1.0, 1.0), (2.0, 0.333333)])
def test_known_scores(gamma, expected):
    assert rmia_scores(*X, *Z, gamma=gamma) == pytest.approx([expected], abs=5e-7)


def test_a_ratio_that_is_just_reached_counts():
    """The record itself among the population: 1 ≥ 1."""
    assert rmia_scores(*X, X[0], X[1]).tolist() == [1.0]


def by_loops(x, z, offline, a, gamma):
    def ratio(target, shadows, membership):
        outside, inside = np.mean(shadows[~membership]), shadows[membership]
        if offline:
            return target / (0.5 * ((1 + a) * outside + 1 - a))
        return target / (0.5 * (np.mean(inside) + outside))

    of_x, of_z = (
        [ratio(np.exp(t[j]), np.exp(s[:, j]), np.asarray(m)[:, j]) for j in range(len(t))]
        for t, s, m in (x, z)
    )
    return [np.mean([rx / rz >= gamma for rz in of_z]) for rx in of_x]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.booleans(), st.floats(0, 1), st.sampled_from([1.0, 1.37, 2.0]))
def test_scores_are_those_of_all_pairs(seed, offline, a, gamma):
    rng = np.random.default_rng(seed)
    x, z = (
        (
            np.log(rng.uniform(0.01, 1, n)),
            np.log(rng.uniform(0.01, 1, (4, n))),
            rng.permuted(np.arange(4)[:, None] < rng.integers(1, 4, n), axis=0),
        )
        for n in (5, 7)
    )
    scores = rmia_scores(*x, *z, offline=offline, a=a, gamma=gamma)
    assert scores.tolist() == pytest.approx(by_loops(x, z, offline, a, gamma))


def test_tiny_probabilities_do_not_underflow():
    ratios = rmia_log_ratios([-2000.0], [[-2001.0], [-2001.0]], [[False], [False]], a=1.0)
    assert ratios == pytest.approx([1.0])


def test_population_left_out_by_all_goes_with_an_online_attack():
    shadows, membership = np.log([[0.4], [0.8]]), [[False], [True]]
    population = np.log([0.8, 0.6]), np.log([[0.75, 0.6], [0.75, 0.6]])
    assert rmia_scores(X[0], shadows, membership, *population, offline=False).tolist() == [1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": 1.5}, r"a must lie in \[0, 1\], got 1.5"),
        ({"gamma": 0.5}, "gamma must be at least 1"),
        ({"gamma": np.nan}, "gamma must be at least 1"),
        ({"target_log_probs": [0.9]}, "target_log_probs must be at most 0, got 0.9"),
        ({"target_log_probs": [np.nan]}, "target_log_probs must be finite, got nan"),
        ({"shadow_log_probs": [[-np.inf]]}, "shadow_log_probs must be finite, got -inf"),
        ({"membership": [[True]]}, "left out each record, got none for record 0"),
        ({"offline": False}, "trained on each record, got none for record 0"),
        ({"population_target_log_probs": []}, "non-empty"),
        ({"population_shadow_log_probs": np.log([[0.5] * 3] * 2)}, "same shadows"),
    ],
)
def test_bad_input_is_refused(change, message):
    names = ("target_log_probs", "shadow_log_probs", "membership")
    population = ("population_target_log_probs", "population_shadow_log_probs")
    options = dict(zip((*names, *population), (*X, *Z), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        rmia_scores(**options)
