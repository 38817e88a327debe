"""Exposure by rank and by a fitted distribution."""

import numpy as np
import pytest
from scipy import stats

from dpjax.audit import exposure_by_rank, exposure_by_sampling

REFERENCES = np.arange(1.0, 17.0)


def quantiles(shape, count=20_000):
    return stats.skewnorm.ppf((np.arange(count) + 0.5) / count, shape)


def test_rank():
    figure = exposure_by_rank([0.0, 3.5, 20.0], [20.0], REFERENCES)
    np.testing.assert_allclose(figure.values, [4.0, 2.0, -0.087463], atol=5e-7)
    np.testing.assert_allclose(figure.held_out_value, -0.087463, atol=5e-7)
    assert (figure.label, figure.unit) == ("descriptive", "bits")


def test_equal_references_count_half():
    assert exposure_by_rank([3.0], [np.inf], REFERENCES).values.tolist() == [np.log2(16 / 3.5)]
    constant = exposure_by_rank([1.0], [1.0], np.ones(6))
    np.testing.assert_allclose([constant.value, constant.held_out_value], np.log2(6 / 4))


@pytest.mark.parametrize("shape", [-3.0, -0.5, 0.0, 2.0, 4.0])
def test_sampling_equals_the_distribution_that_the_references_are_drawn_from(shape):
    points = stats.skewnorm.ppf([0.5, 0.1, 0.01], shape)
    figure = exposure_by_sampling(10 + 3 * points, [10.0], 10 + 3 * quantiles(shape))
    np.testing.assert_allclose(figure.values, -np.log2([0.5, 0.1, 0.01]), rtol=0.02)


def test_sampling_far_beyond_the_references():
    # Of a normal distribution: log P[X ≤ -30] = -454.3 nats, where P is below the least double.
    figure = exposure_by_sampling([-9.0, -30.0], [0.0], quantiles(0.0))
    expected = -stats.norm.logcdf([-9.0, -30.0]) / np.log(2)
    np.testing.assert_allclose(figure.values, expected, rtol=0.01)
    assert figure.values[1] > 600
    assert "rests on a skew-normal distribution" in figure.notes[0]


@pytest.mark.parametrize("shape", [-2.0, 0.0, 3.0])
def test_the_tail_meets_the_middle(shape, monkeypatch):
    from dpjax.audit.extraction import exposure

    points = stats.skewnorm.ppf([1e-3, 1e-5, 1e-7], shape)
    middle = [exposure._log_cdf(x, shape) for x in points]
    monkeypatch.setattr(exposure, "_LEAST_PROBABILITY", 1.0)
    tail = [exposure._log_cdf(x, shape) for x in points]
    np.testing.assert_allclose(tail, middle, rtol=1e-6)


def test_references_that_no_skew_normal_fits_still_give_a_number():
    # An exponential has skewness 2; no skew-normal distribution exceeds 0.995.
    references = stats.expon.ppf((np.arange(500) + 0.5) / 500)
    figure = exposure_by_sampling([-1.0, 0.0, 1.0], [50.0], references)
    assert np.isfinite(figure.values).all() and (np.diff(figure.values) < 0).all()
    assert figure.held_out_value == 0


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="references must not all be equal"):
        exposure_by_sampling([1.0], [1.0], np.ones(20))
    with pytest.raises(ValueError, match="references must be at least 20 for a fit, got 16"):
        exposure_by_sampling([1.0], [1.0], REFERENCES)
    with pytest.raises(ValueError, match="secrets must be finite"):
        exposure_by_sampling([np.inf], [1.0], quantiles(0, 20))
    for name, values in (
        ("secrets", ([np.nan], [1.0], REFERENCES)),
        ("held_out", ([1.0], [-np.inf], REFERENCES)),
        ("references", ([1.0], [1.0], [np.nan])),
    ):
        with pytest.raises(ValueError, match=f"{name} must be neither NaN nor -inf"):
            exposure_by_rank(*values)
    with pytest.raises(ValueError, match=r"held_out must have shape \(N,\) with N ≥ 1"):
        exposure_by_rank([1.0], [], REFERENCES)
