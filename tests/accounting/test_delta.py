"""The default δ and the check against the number of units."""

from __future__ import annotations

import warnings

import hypothesis
import hypothesis.strategies as st
import pytest
from dpjax_accounting import DeltaWarning, default_delta, validate_delta


@hypothesis.settings(max_examples=200, derandomize=True, database=None)
@hypothesis.given(st.integers(1, 10**9))
@hypothesis.example(1)
@hypothesis.example(10**9)
def test_default_is_below_one_over_the_number_of_units_and_draws_no_warning(num_units):
    delta = default_delta(num_units)
    assert 0 < delta < 1 / num_units
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert validate_delta(delta, num_units) == delta


def test_default_values():
    assert default_delta(1000) == 1e-5
    assert default_delta(67349) == pytest.approx(4.886e-6, rel=1e-3)


@pytest.mark.parametrize("delta", [1e-3, 0.5])
def test_warning_from_one_over_the_number_of_units_on(delta):
    with pytest.warns(DeltaWarning, match="is not below 1 / num_units = 0.001") as caught:
        assert validate_delta(delta, 1000) == delta
    assert caught[0].filename == __file__


@pytest.mark.parametrize("delta", [0, 1, -0.1, 2])
def test_values_that_are_no_probability(delta):
    with pytest.raises(ValueError, match="delta must lie strictly between 0 and 1"):
        validate_delta(delta, 1000)


def test_wrong_types_and_ranges():
    with pytest.raises(TypeError, match="delta must be a number; got None"):
        validate_delta(None, 1000)
    with pytest.raises(ValueError, match="delta must be finite"):
        validate_delta(float("nan"), 1000)
    with pytest.raises(ValueError, match="num_units must be at least 1"):
        validate_delta(1e-5, 0)
    with pytest.raises(TypeError, match="num_units must be an integer"):
        default_delta(10.5)
    with pytest.raises(ValueError, match="num_units must be at least 1"):
        default_delta(0)
