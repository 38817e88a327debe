"""What many runs of one small model have in common: mechanism, loss, records, and the canary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dpjax_accounting import DPSGD

from dpjax import unit_loss
from dpjax.privatize import ClippingRule, FlatClipping, PerGroupClipping

CLIP_NORM, DELTA = 0.7, 1e-5
# The canary's gradient before clipping, in clip norms.
_LOUDNESS = 100.0
Records = Any


def linear_loss(params, record):
    """The gradient is the record."""
    return sum(jnp.vdot(params[name], record[name]) for name in params)


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """Runs of DP-SGD on S records, the first of them a canary that a fair coin decides on.

    Attributes:
        mechanism: that the runs carry out; its neighbouring relation says what the coin decides.
        rule: of clipping.
        loss: whose gradient is known.
        records: leaves `(S, ...)`, with the canary.
        others: the same where the coin says no; the same records where the canary is absent then.
        direction: `(D,)` the clipped gradient of the canary / C.
        microbatch_size: of `clipped_grad`.
        learning_rate: of the model's updates.
    """

    mechanism: DPSGD
    rule: ClippingRule
    loss: Callable
    records: Records
    others: Records
    direction: np.ndarray
    microbatch_size: int | None = None
    learning_rate: float = 0.1

    @property
    def num_slots(self) -> int:
        """S."""
        return len(jax.tree.leaves(self.records)[0])

    @property
    def clip_norm(self) -> float:
        """C."""
        return float(self.rule.clip_norm)

    def present(self, coin: bool) -> np.ndarray:
        """`(S,)` which records take part in the run."""
        present = np.ones(self.num_slots, bool)
        present[0] = coin or self.mechanism.neighboring != "add_or_remove_one"
        return present

    def params(self) -> dict[str, jax.Array]:
        """Zeros, from which every run starts."""
        half = len(self.direction) // 2
        return {"body": jnp.zeros(half), "head": jnp.zeros(len(self.direction) - half)}


def make_setting(
    mechanism: DPSGD,
    *,
    rule: ClippingRule | None = None,
    size: int = 8,
    microbatch_size: int | None = None,
) -> Setting:
    """Other records leave the canary's coordinate, and the last half of the parameters, alone.

    The coin decides whether there is a canary, or which of two opposite ones ("replace_one").

    Args:
        mechanism: of the runs.
        rule: default: flat clipping.
        size: D, the number of parameters.
        microbatch_size: of `clipped_grad`.
    """
    rule = rule or FlatClipping(CLIP_NORM)
    gradients = _other_gradients(mechanism.num_units, size)
    direction = np.zeros(size)
    direction[0] = 1.0
    if isinstance(rule, PerGroupClipping):
        direction[[0, size // 2]] = np.array([*rule.clip_norms.values()]) / rule.clip_norm
    gradients[0] = _LOUDNESS * CLIP_NORM * direction
    opposite = gradients.copy()
    if mechanism.neighboring == "replace_one":
        opposite[0] *= -1
    return Setting(
        mechanism=mechanism,
        rule=rule,
        loss=linear_loss,
        records=_by_leaf(gradients),
        others=_by_leaf(opposite),
        direction=direction,
        microbatch_size=microbatch_size,
    )


def make_user_setting(mechanism: DPSGD, *, records_per_user: int = 4, size: int = 8) -> Setting:
    """Units are users; the canary is a user whose records all point the same way."""
    gradients = _other_gradients(mechanism.num_units * records_per_user, size)
    gradients = gradients.reshape(mechanism.num_units, records_per_user, size)
    direction = np.eye(size)[0]
    gradients[0] = _LOUDNESS * CLIP_NORM * direction
    users = {
        "examples": _by_leaf(gradients),
        "mask": np.ones((mechanism.num_units, records_per_user), bool),
    }
    return Setting(
        mechanism=mechanism,
        rule=FlatClipping(CLIP_NORM),
        loss=unit_loss(linear_loss),
        records=users,
        others=users,
        direction=direction,
    )


def make_crowd_setting(mechanism: DPSGD, *, size: int = 8) -> Setting:
    """All other records pull against the canary, which is zeroed out if the coin says no.

    The worst records for batches of a fixed size (Chua et al. 2024, "How Private are DP-SGD
    Implementations?", section 4): where the canary is, one of the others is missing.
    """
    direction = np.eye(size)[0]
    gradients = np.tile(-CLIP_NORM * direction, (mechanism.num_units, 1))
    gradients[0] = _LOUDNESS * CLIP_NORM * direction
    silent = gradients.copy()
    silent[0] = 0
    return Setting(
        mechanism=mechanism,
        rule=FlatClipping(CLIP_NORM),
        loss=linear_loss,
        records=_by_leaf(gradients),
        others=_by_leaf(silent),
        direction=direction,
    )


def _other_gradients(count: int, size: int) -> np.ndarray:
    """Some are clipped and some are not."""
    gradients = np.zeros((count, size))
    rng = np.random.default_rng(0)
    gradients[:, 1 : size // 2] = rng.normal(size=(count, size // 2 - 1)) * CLIP_NORM
    return gradients


def _by_leaf(gradients: np.ndarray) -> dict[str, np.ndarray]:
    half = gradients.shape[-1] // 2
    rounded = gradients.astype(np.float32)
    return {"body": rounded[..., :half], "head": rounded[..., half:]}
