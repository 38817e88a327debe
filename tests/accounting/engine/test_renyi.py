"""The Rényi bound on ε against dp-accounting's Rényi accountant."""

from __future__ import annotations

import dp_accounting
import pytest
from dp_accounting import rdp
from dpjax_accounting import DPSGD


@pytest.mark.parametrize(
    ("probability", "noise", "steps", "delta"),
    [
        (0.01, 4.0, 10000, 1e-5),
        (256 / 60000, 1.1, 14062, 1e-5),
        (0.0152, 0.8, 198, 1e-5),
        (0.0243, 0.6, 411, 8e-6),
        (1.0, 20.0, 100, 1e-5),
        (1.0, 1.0, 1, 1e-5),
        (0.5, 0.5, 1, 1e-6),
        (0.1, 50.0, 1000, 1e-5),
        (1.0, 0.3, 10, 1e-15),
    ],
)
def test_agrees_with_renyi_accountant(probability, noise, steps, delta):
    event = dp_accounting.PoissonSampledDpEvent(probability, dp_accounting.GaussianDpEvent(noise))
    other = rdp.RdpAccountant().compose(event, steps).get_epsilon(delta)
    # The two minimise over different orders.
    ours = DPSGD(
        num_units=10**6,
        expected_batch_size=probability * 10**6,
        noise_multiplier=noise,
        num_steps=steps,
    ).rdp_epsilon(delta)
    assert ours == pytest.approx(other, rel=0.01)
