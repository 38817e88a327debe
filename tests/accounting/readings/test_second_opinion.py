"""dp-accounting's figure beside ours, and when there is none."""

import math

import pytest
from dpjax_accounting.readings.second_opinion import in_words, second_opinion

from tests.support.mechanisms import dpsgd, full_batch


@pytest.mark.parametrize(
    ("mechanism", "delta"),
    [
        (dpsgd(67349, 1024, 1.0, 198), 7.4e-6),
        (dpsgd(6920, 2048, 1.3, 34), 1e-5),
        (dpsgd(1000, 1000, 20.0, 100, neighboring="zero_out"), 1e-5),
    ],
)
def test_it_agrees(mechanism, delta):
    ours = mechanism.epsilon(delta)
    opinion = second_opinion(mechanism, delta)
    assert math.isclose(ours, opinion, rel_tol=1e-4)
    assert "agrees" in in_words(ours, opinion)


@pytest.mark.parametrize(
    ("mechanism", "delta"),
    [
        (dpsgd(1000, 100, 4.0, 100, neighboring="replace_one"), 1e-5),
        (dpsgd(1000, 100, 4.0, 1000), 1e-12),
        (dpsgd(1000, 100, 0.2, 1), 1e-5),
        (full_batch(4.0, 10), 1e-5),
    ],
)
def test_there_is_none_where_it_would_be_wrong_or_slow(mechanism, delta):
    assert second_opinion(mechanism, delta) is None


def test_what_is_said_of_a_difference():
    assert "no figure" in in_words(1.0, None)
    assert "looser bound: epsilon=1.2" in in_words(1.0, 1.2)
    assert "TIGHTER bound: epsilon=0.8" in in_words(1.0, 0.8)
