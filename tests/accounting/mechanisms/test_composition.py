"""Compositions: flattening, counting, refusals, and the whole against its parts."""

from __future__ import annotations

import dataclasses
import json

import pytest
from dpjax_accounting import Composition, mechanism_from_dict

from tests.support.mechanisms import dpsgd

ONE = dpsgd(1000, 100, 4.0, 30)
OTHER = dpsgd(500, 10, 2.0, 20)


def test_equal_mechanisms_are_counted_and_nested_ones_flattened():
    both = Composition((ONE, OTHER, ONE))
    assert (both.mechanisms, both.counts) == ((ONE, OTHER), (2, 1))
    nested = Composition((both, OTHER), counts=(2, 1))
    assert (nested.mechanisms, nested.counts) == ((ONE, OTHER), (4, 3))
    assert (nested.unit, nested.neighboring) == ("record", "add_or_remove_one")
    assert hash(both) == hash(Composition([ONE, ONE, OTHER]))


def test_round_trip_through_json():
    composed = Composition((ONE, OTHER, ONE))
    assert mechanism_from_dict(json.loads(json.dumps(composed.to_dict()))) == composed


def test_the_whole_is_its_parts():
    whole = dpsgd(1000, 100, 4.0, 300)
    for parts in (
        Composition((ONE,), counts=(10,)),
        Composition((whole.after(100), whole.after(200))),
    ):
        assert parts.epsilon(1e-5) == pytest.approx(whole.epsilon(1e-5), rel=1e-6)
        assert parts.delta(1.0) == pytest.approx(whole.delta(1.0), rel=1e-6)


def test_a_composition_loses_more_than_each_part():
    both = Composition((ONE, OTHER)).epsilon(1e-5)
    assert max(ONE.epsilon(1e-5), OTHER.epsilon(1e-5)) < both
    assert both < ONE.epsilon(5e-6) + OTHER.epsilon(5e-6)


def test_a_hundred_thousand_equal_mechanisms_cost_one_power():
    step = dpsgd(10**6, 1000, 1.0, 1)
    many = Composition((step,) * 1000, counts=(100,) * 1000)
    assert (many.mechanisms, many.counts) == ((step,), (100_000,))
    assert many.epsilon(1e-6) == dpsgd(10**6, 1000, 1.0, 100_000).epsilon(1e-6)


def test_different_mechanisms_are_composed_once():
    noises = [1 + i / 10 for i in range(10)]
    composed = Composition(tuple(dpsgd(10_000, 100, noise, 10) for noise in noises))
    most, least = (dpsgd(10_000, 100, noise, 100) for noise in (noises[0], noises[-1]))
    assert least.epsilon(1e-5) < composed.epsilon(1e-5) < most.epsilon(1e-5)
    assert composed.epsilon(1e-5) < composed.rdp_epsilon(1e-5)


def test_refusals():
    user = dataclasses.replace(ONE)
    object.__setattr__(user, "unit", "user")
    with pytest.raises(ValueError, match="different unit cannot be composed: got 'record' and 'us"):
        Composition((ONE, user))
    with pytest.raises(ValueError, match="at least one mechanism"):
        Composition(())
    with pytest.raises(TypeError, match="must be a tuple of mechanisms; got DPSGD"):
        Composition(ONE)
    with pytest.raises(TypeError, match="must hold mechanisms; got 3"):
        Composition((ONE, 3))
    with pytest.raises(ValueError, match="one number for each of the 2 mechanisms; got 1"):
        Composition((ONE, OTHER), counts=(1,))
    with pytest.raises(ValueError, match="counts must be at least 1"):
        Composition((ONE,), counts=(0,))
