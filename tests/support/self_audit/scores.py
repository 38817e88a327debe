"""White-box attacks: from all private gradients of a run to one number, higher with the canary."""

from __future__ import annotations

import numpy as np
from scipy import special

from dpjax.audit import log_likelihood_ratio
from tests.support.self_audit.setting import Setting


def canary_shares(setting: Setting, releases: np.ndarray) -> np.ndarray:
    """⟨canary, noisy sum⟩ / C² of each step, `(R, T)`: N(participations, σ²)."""
    scale = setting.mechanism.expected_batch_size / setting.clip_norm
    return releases @ setting.direction * scale


def likelihood_ratio(setting: Setting, releases: np.ndarray) -> np.ndarray:
    """The most powerful score against the mechanism as it should be."""
    shares, mechanism = canary_shares(setting, releases).T, setting.mechanism

    def ratio(shares):
        return log_likelihood_ratio(
            shares,
            noise_multiplier=mechanism.noise_multiplier,
            sampling_probability=mechanism.sampling_probability,
        )

    if mechanism.neighboring == "replace_one":
        return np.asarray(ratio(shares)) - np.asarray(ratio(-shares))
    return np.asarray(ratio(shares))


def step_differences(setting: Setting, releases: np.ndarray) -> np.ndarray:
    """The largest difference between steps: noise that steps share drops out."""
    return np.ptp(canary_shares(setting, releases), axis=1)


def small_noise(setting: Setting, releases: np.ndarray) -> np.ndarray:
    """How little the parameters move that no record touches: the last half of them."""
    return -np.square(releases[..., releases.shape[-1] // 2 :]).sum(axis=(1, 2))


def odd_batch(setting: Setting, releases: np.ndarray) -> np.ndarray:
    """The likelihood ratio for batches of a fixed size b where all others pull the other way.

    The batch that holds the canary sums up to 1 − (b − 1) with it, and to −(b − 1) without; all
    others to −b. The order is unknown, so the densities are means over the steps.
    """
    mechanism = setting.mechanism
    above = canary_shares(setting, releases) + mechanism.expected_batch_size
    precision = 1 / mechanism.noise_multiplier**2
    present = special.logsumexp(2 * (above - 1) * precision, axis=1)
    return present - special.logsumexp((above - 0.5) * precision, axis=1)
