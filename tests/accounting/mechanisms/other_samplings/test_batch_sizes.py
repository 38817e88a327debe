"""Batches of a fixed size, and Poisson batches of at most a given one."""

from __future__ import annotations

import dataclasses

import pytest
from dpjax_accounting import (
    compare,
)

from tests.support.mechanisms import dpsgd, fixed_size, full_batch, truncated_poisson

SST2 = dpsgd(67349, 1024, 1.0, 198)


@pytest.mark.parametrize(
    ("num_units", "size", "noise", "count", "delta", "epsilon", "renyi"),
    [
        (67349, 1024, 1.0, 198, 7.424e-6, 11.0615, 15.3606),
        (42061, 1024, 1.5, 411, 8e-6, 8.05904, 10.39195),
        (10000, 100, 1.0, 1000, 1e-5, 15.16137, 20.98707),
    ],
)
def test_fixed_size_batches_use_the_sensitivity_of_a_replacement(
    num_units, size, noise, count, delta, epsilon, renyi
):
    both = compare(
        fixed_size(num_units, size, noise, count),
        delta,
    )
    assert both.pld == pytest.approx(epsilon, rel=1e-5)
    # dp-accounting's bound is the strengthened one of the same paper, up to 1 % tighter.
    assert renyi * (1 - 1e-6) < both.rdp < 1.01 * renyi
    # Every batch of Poisson sampling with all units, reduced at random, is one of a fixed size.
    reduced = truncated_poisson(num_units, num_units, noise, count, largest_batch_size=size)
    for relation in ("replace_one", "zero_out"):
        whole = dataclasses.replace(reduced, neighboring=relation).epsilon(delta)
        assert whole == pytest.approx(both.pld, rel=1e-4)
    zeroed = fixed_size(num_units, size, noise, count, neighboring="zero_out").epsilon(delta)
    assert 0.8 * both.pld < zeroed < both.pld
    # Not the loss of Poisson batches, with either relation.
    assert zeroed > 4 * dpsgd(num_units, size, noise, count, neighboring="zero_out").epsilon(delta)
    poisson = dpsgd(num_units, size, noise, count, neighboring="replace_one").epsilon(delta)
    assert both.pld > 2.5 * poisson


@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_batches_of_most_units_are_hardly_amplified(relation):
    whole = full_batch(4.0, 20, neighboring=relation)
    for size in (50, 100):
        fixed = fixed_size(100, size, 4.0, 20, neighboring=relation)
        assert fixed.epsilon(1e-5) == whole.epsilon(1e-5)
    assert fixed.rdp_epsilon(1e-5) == whole.rdp_epsilon(1e-5)
    few = fixed_size(100, 30, 4.0, 20, neighboring=relation)
    assert few.epsilon(1e-5) < whole.epsilon(1e-5)


@pytest.mark.parametrize(
    ("numbers", "delta", "zero_out", "replace_one"),
    [
        ((67349, 1024, 1152, 0.6, 198), 7.424e-6, 6.697444152635192, 7.186710145313944),
        ((42061, 1024, 1152, 1.0, 411), 8e-6, 3.241397263712751, 4.799807997449251),
        ((1000000, 8192, 8704, 0.8, 2000), 1e-7, 4.593246990249125, 6.136588165716036),
    ],
)
def test_truncated_poisson_agrees_with_dp_accounting(numbers, delta, zero_out, replace_one):
    num_units, mean, most, noise, steps = numbers
    for relation, expected in (("zero_out", zero_out), ("replace_one", replace_one)):
        mechanism = truncated_poisson(
            num_units, mean, noise, steps, largest_batch_size=most, neighboring=relation
        )
        assert mechanism.epsilon(delta) == pytest.approx(expected, rel=1e-5)


def test_truncation_far_above_the_mean_is_free_and_at_the_mean_ruinous():
    def truncated_at(largest_batch_size):
        return truncated_poisson(
            67349, 1024, 1.0, 198, largest_batch_size=largest_batch_size
        ).epsilon(7.424e-6)

    poisson = SST2.epsilon(7.424e-6)
    assert truncated_at(67349) == poisson
    assert poisson <= truncated_at(1024 + 6 * 32) < poisson * 1.0001
    assert truncated_at(1024) > 5 * poisson
