"""δ of whole mechanisms against all draws on small data, integrated over the outputs.

Every draw of every unit is enumerated, on all data of a few units with contributions −1, 0 and 1,
so that no pair that dominates, and nothing else of the package, is taken for granted.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from dpjax_accounting import (
    ShuffledDPSGD,
)

from tests.support.mechanisms import (
    adaptive_clipping,
    banded,
    dpsgd,
    fixed_size,
    truncated_poisson,
    user_level,
)

EPSILONS = (0.0, 0.5, 1.5)
# A trapezoidal rule, whose error the kinks of the divergence decide.
CLOSE = 1e-3


def mixture(draws, contributions):
    """(probability, sum) of the units drawn, for draws {units: probability}."""
    sums = Counter()
    for units, probability in draws.items():
        sums[sum(contributions[i] for i in units)] += probability
    return tuple((weight, float(mean)) for mean, weight in sums.items())


def density(side, z, noise):
    parts = (w * np.exp(-0.5 * ((z - mean) / noise) ** 2) for w, mean in side)
    return sum(parts) / (noise * math.sqrt(2 * math.pi))


def divergences(p, q, noise, steps):
    """δ at each of EPSILONS of `steps` independent releases, in both directions; the larger."""
    means = [mean for _, mean in p + q]
    z = np.linspace(min(means) - 8 * noise, max(means) + 8 * noise, 2001 if steps == 1 else 301)
    cell = (z[1] - z[0]) ** steps
    one, other = density(p, z, noise), density(q, z, noise)
    if steps == 2:
        one, other = np.outer(one, one), np.outer(other, other)
    return np.array([hockey_stick(one, other, cell, epsilon) for epsilon in EPSILONS])


def hockey_stick(one, other, cell, epsilon):
    growth = math.exp(epsilon)
    sides = ((one - growth * other), (other - growth * one))
    return cell * max(np.maximum(side, 0.0).sum() for side in sides)


def worst(draws, num_units, relation, noise, steps):
    """The largest δ on all data: the first unit's contribution is 1, and −1 or 0 instead."""
    largest = np.zeros(len(EPSILONS))
    instead = (0,) if relation == "zero_out" else (-1, 0)
    for others in itertools.combinations_with_replacement((-1, 0, 1), num_units - 1):
        for absent in instead:
            p, q = mixture(draws, (1, *others)), mixture(draws, (absent, *others))
            largest = np.maximum(largest, divergences(p, q, noise, steps))
    return largest


def assert_bounds(mechanism, true, looser=math.inf):
    bounds = np.array([mechanism.delta(epsilon) for epsilon in EPSILONS])
    assert (bounds >= true * (1 - CLOSE)).all()
    assert (bounds <= true * looser + 1e-9).all()


def poisson_draws(num_units, q):
    return {
        units: q ** len(units) * (1 - q) ** (num_units - len(units))
        for size in range(num_units + 1)
        for units in itertools.combinations(range(num_units), size)
    }


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_poisson_batches(relation, steps):
    true = worst(poisson_draws(3, 0.3), 3, relation, 0.9, steps)
    # The pair is attained where the others contribute nothing.
    assert_bounds(dpsgd(10, 3, 0.9, steps, neighboring=relation), true, looser=1 + CLOSE)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
@pytest.mark.parametrize(("num_units", "size", "noise"), [(4, 1, 1.0), (5, 2, 1.5), (3, 3, 2.0)])
def test_batches_of_a_fixed_size(num_units, size, noise, relation, steps):
    subsets = list(itertools.combinations(range(num_units), size))
    true = worst(dict.fromkeys(subsets, 1 / len(subsets)), num_units, relation, noise, steps)
    mechanism = fixed_size(num_units, size, noise, steps, neighboring=relation)
    assert_bounds(mechanism, true, looser=1 + CLOSE if size == num_units else 8)
    if size < num_units:
        # More than Poisson sampling with the same noise loses: it is no figure for these batches.
        poisson = dpsgd(num_units, size, noise, steps, neighboring=relation)
        assert true[1] > poisson.delta(EPSILONS[1])


@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
@pytest.mark.parametrize(("num_units", "mean", "most", "noise"), [(4, 2, 2, 1.0), (4, 4, 2, 0.8)])
def test_truncated_poisson_batches(num_units, mean, most, noise, relation):
    draws = Counter()
    for units, probability in poisson_draws(num_units, mean / num_units).items():
        kept = list(itertools.combinations(units, min(most, len(units))))
        for some in kept:
            draws[some] += probability / len(kept)
    assert sum(draws.values()) == pytest.approx(1, abs=1e-12)
    true = worst(draws, num_units, relation, noise, 1)
    mechanism = truncated_poisson(
        num_units, mean, noise, 1, largest_batch_size=most, neighboring=relation
    )
    assert_bounds(mechanism, true)


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_users_with_three_records(relation):
    draws = poisson_draws(3, 0.3)
    true = np.zeros(len(EPSILONS))
    for records in itertools.product((1, 0.3, -1), repeat=3):
        instead = [(0, 0, 0)] if relation == "add_or_remove_one" else [(-1, -1, -1), records[::-1]]
        for others in instead:
            p, q = mixture(draws, records), mixture(draws, others)
            true = np.maximum(true, divergences(p, q, 1.2, 1))
    assert_bounds(
        user_level(10, 3, 1.2, 1, records_per_user=3, neighboring=relation),
        true,
        looser=1 + CLOSE,
    )


def plane(side, z, noises=(1.0, 1.0)):
    """The density of a mixture of Gaussians with means in the plane."""
    parts = [
        weight * np.outer(density(((1, a),), z, noises[0]), density(((1, b),), z, noises[1]))
        for weight, (a, b) in side
    ]
    return sum(parts)


@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_shuffled_epochs(relation):
    z = np.linspace(-10, 10, 401)
    largest = np.zeros(len(EPSILONS))
    absent = 0 if relation == "zero_out" else -1
    for others in itertools.combinations_with_replacement((-1, 0, 1), 3):
        sides = []
        for data in ((1, *others), (absent, *others)):
            halves = itertools.combinations(range(4), 2)
            sums = [sum(data[i] for i in half) for half in halves]
            sides.append([(1 / 6, (first, sum(data) - first)) for first in sums])
        one, other = (plane(side, z) for side in sides)
        values = [hockey_stick(one, other, 0.05**2, epsilon) for epsilon in EPSILONS]
        largest = np.maximum(largest, values)
    assert_bounds(ShuffledDPSGD(noise_multiplier=1.0, num_epochs=1, neighboring=relation), largest)


def test_adaptive_clipping_with_its_count():
    q, noises = 0.3, (1.2, 0.7)
    mechanism = adaptive_clipping(10, 3, noises[0], 1, count_stddev=noises[1])
    z = np.linspace(-12, 12, 801)
    absent = plane([(1, (0, 0))], z, noises)
    largest = np.zeros(len(EPSILONS))
    # A gradient of norm 1, and the bit that it is clipped, or is not, less one half.
    for gradient, bit in ((1, 0.5), (1, -0.5), (0.9, 0.5)):
        present = plane([(q, (gradient, bit)), (1 - q, (0, 0))], z, noises)
        values = [hockey_stick(present, absent, 0.03**2, epsilon) for epsilon in EPSILONS]
        largest = np.maximum(largest, values)
    assert_bounds(mechanism, largest, looser=1 + CLOSE)


@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_banded_noise_with_gradients_that_look_at_what_was_released(relation):
    # Two bands, three steps, four units: two in the group of steps 0 and 2, two in that of step 1.
    q, noise, below = 0.4, 1.0, 0.6
    z = np.linspace(-7, 7, 71)
    # CY for the outputs Y: the sums, mixed by C, and independent noise.
    first, second, third = np.meshgrid(z, z, z, indexing="ij", sparse=True)
    draws = list(itertools.product((0, 1), repeat=2))

    def joint(before, after, size):
        others = size * np.sign(first)
        total = 0.0
        for (b0, c0), (b1, c1), (b2, c2) in itertools.product(draws, repeat=3):
            drawn = sum((b0, c0, b1, c1, b2, c2))
            means = (
                b0 * before + c0 * size,
                below * (b0 * before + c0 * size) + (b1 - c1) * others,
                below * (b1 - c1) * others + b2 * after(first, second) + c2 * others,
            )
            squares = sum((x - m) ** 2 for x, m in zip((first, second, third), means, strict=True))
            weight = q**drawn * (1 - q) ** (6 - drawn)
            total = total + weight * np.exp(-squares / (2 * noise**2))
        return total / (noise * math.sqrt(2 * math.pi)) ** 3

    def follows(a, b):
        return np.sign(a + b - below * a)

    absent = 0.0 if relation == "zero_out" else -1.0
    true = np.zeros(len(EPSILONS))
    for size in (0.0, 1.0):
        one = joint(1.0, follows, size)
        other = joint(absent, lambda a, b: absent * follows(a, b), size)
        values = [hockey_stick(one, other, (z[1] - z[0]) ** 3, epsilon) for epsilon in EPSILONS]
        true = np.maximum(true, values)
    mechanism = banded(
        4, 2 * q, noise, 3, bands=2, column_norm=math.hypot(1, below), neighboring=relation
    )
    # Looser, as the column of the last step, which ends with the run, has norm 1.
    assert_bounds(mechanism, true, looser=2)


@pytest.mark.parametrize(
    ("noise", "epsilon", "dominated", "true"),
    [(0.3, 9.0, 0.0996, 0.3825), (0.5, 6.0, 9.97e-3, 0.2246), (1.0, 6.0, 2.8e-9, 3.1e-3)],
)
def test_why_banded_noise_refuses_units_that_are_added_or_removed(noise, epsilon, dominated, true):
    # Two bands, C = I, all units of a group in its step, groups of equal size drawn at random. A
    # third unit moves one of the other two to the other group half of the time.
    z = np.linspace(-5, 5, 401) if noise < 1 else np.linspace(-10, 10, 401)
    largest = 0.0
    for u, v, w in itertools.product((-1, 0, 1), repeat=3):
        two = [(1 / 2, (u, v)), (1 / 2, (v, u))]
        three = [(1 / 3, (u + v, w)), (1 / 3, (u + w, v)), (1 / 3, (v + w, u))]
        one, other = (plane(side, z, (noise, noise)) for side in (three, two))
        largest = max(largest, hockey_stick(one, other, (z[1] - z[0]) ** 2, epsilon))
    assert largest == pytest.approx(true, rel=0.02)
    bound = banded(2, 1, noise, 2, bands=2, column_norm=1.0, neighboring="zero_out").delta(epsilon)
    assert bound == pytest.approx(dominated, rel=0.01)
    with pytest.raises(ValueError, match="groups of equal size move other units"):
        banded(2, 1, noise, 2, bands=2, column_norm=1.0, neighboring="add_or_remove_one")
