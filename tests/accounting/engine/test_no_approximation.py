"""The approximation by a central limit theorem, which is no bound, is not offered as ε."""

from __future__ import annotations

import argparse
import math

import dpjax_accounting
import pytest
from dpjax_accounting import (
    Composition,
    DatasetIdentity,
    EpsilonBySteps,
    Ledger,
    claim,
    compare,
    gaussian_dp,
)
from dpjax_accounting.cli import _parser
from dpjax_accounting.engine.gaussian import gaussian_epsilon

from tests.support.mechanisms import dpsgd

# Three of the rows in reference.json where the approximation is too low, with their ε.
ROWS = [
    (dpsgd(1000, 10, 1.0, 1), 1e-5, 0.1994504),
    (dpsgd(10**9, 5_120_000, 0.7, 600), 1e-6, 2.843212),
    (dpsgd(10**9, 4_096_000, 1.0, 1000), 1e-12, 2.219142),
]
NAMES_OF_IT = ("clt", "central", "limit_theorem", "approx", "gdp_epsilon", "epsilon_gdp")


def approximation(run, delta):
    """ε by the central limit theorem (Bu, Dong, Long and Su 2020, corollary 5.4)."""
    squares = run.num_steps * math.expm1(run.noise_multiplier**-2)
    return gaussian_epsilon(delta, run.sampling_probability * math.sqrt(squares))


def numbers_called_epsilon(value, name=""):
    if isinstance(value, dict):
        return [n for key, one in value.items() for n in numbers_called_epsilon(one, key)]
    return [value] if name.startswith("epsilon") else []


@pytest.mark.parametrize(("run", "delta", "true"), ROWS)
def test_every_epsilon_bounds_what_the_approximation_falls_below(run, delta, true):
    assert approximation(run, delta) < 0.6 * true
    both = compare(run, delta)
    answers = [run.epsilon(delta), run.rdp_epsilon(delta), both.pld, both.rdp]
    answers += [EpsilonBySteps(run, delta).at(run.num_steps), Composition((run,)).epsilon(delta)]
    assert min(answers) >= true * (1 - 1e-6)


def test_reports_ledgers_and_gaussians_bound_it_too(tmp_path):
    run, delta, true = ROWS[0]
    reported = numbers_called_epsilon(claim(run, delta, other_deltas=()))
    assert len(reported) == 4 and min(reported) >= true * (1 - 1e-6)
    ledger = Ledger.create(tmp_path / "data.ledger", DatasetIdentity("0" * 64, 1000, "record"))
    ledger.charge("a", run, key="k")
    assert ledger.epsilon(delta) >= true * (1 - 1e-6)
    bound = gaussian_dp(run, delta)
    assert gaussian_epsilon(bound.smallest_delta, bound.mu) >= true * (1 - 1e-6)


def test_nothing_public_is_named_after_it():
    kinds = dpjax_accounting.mechanisms.mechanism._KINDS.values()
    names = {name for kind in kinds for name in dir(kind)} | set(dpjax_accounting.__all__)
    assert "epsilon" in names
    assert [name for name in names if any(word in name.lower() for word in NAMES_OF_IT)] == []


def test_the_command_has_no_choice_of_accountant():
    def parsers(parser):
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for one in action.choices.values():
                    yield from parsers(one)

    options = {o for one in parsers(_parser()) for a in one._actions for o in a.option_strings}
    assert options == {"-h", "--help", "--ledger", "--html", "--delta", "--output"}
