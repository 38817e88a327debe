"""A privacy report as a run writes it, without a run."""

import pytest
from dpjax_accounting import DPSGD, claim

from tests.support.privacy_reports import make_report

# So much noise that it is accounted for in no time.
MECHANISM = DPSGD(num_units=1000, expected_batch_size=100, noise_multiplier=8.0, num_steps=40)
DELTA = 1e-5


@pytest.fixture(scope="session")
def claims():
    """The claims of the whole run and of half of it."""
    return {steps: claim(MECHANISM, DELTA, steps_completed=steps) for steps in (20, 40)}


@pytest.fixture
def report(claims):
    """A complete report that verifies; tests spoil it."""
    return make_report(claims[40])


@pytest.fixture
def unfinished(claims):
    return make_report(claims[20])
