"""What `fit` refuses before its first step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from dpjax_accounting import (
    BandedDPSGD,
    DPSGDSchedule,
    Mechanism,
    Stepwise,
    UserLevelDPSGD,
    default_delta,
    validate_delta,
)

from dpjax.basics.typing import PyTree
from dpjax.data import OwnedRecords
from dpjax.privatize import (
    AdaptiveClipping,
    ClippingRule,
    FlatClipping,
    RunKey,
    num_steps_of,
    step_noise,
)
from dpjax.training.devices.hosts import shared_run_key
from dpjax.training.fitting.no_privacy import NoPrivacy


def checked_mechanism(mechanism: Mechanism | NoPrivacy) -> Stepwise | None:
    """Returns what the accountant counts; None without privacy.

    Raises:
        TypeError: it is no mechanism, or one that `fit` cannot run.
        ValueError: it lacks a number that a run needs.
    """
    if isinstance(mechanism, NoPrivacy):
        return None
    if not isinstance(mechanism, Mechanism):
        raise TypeError(
            "mechanism must be one of dpjax_accounting, such as DPSGD, or NoPrivacy for training "
            f"without privacy, got {type(mechanism).__name__}"
        )
    num_steps_of(mechanism)
    if not isinstance(mechanism, (BandedDPSGD, DPSGDSchedule)):
        # Refuses noise that is not all of what is released.
        step_noise(mechanism)
    # What has a number of steps for a run is one in steps for the accountant.
    assert isinstance(mechanism, Stepwise)
    return mechanism


def count_drawn(mechanism: Mechanism | NoPrivacy) -> int:
    """Returns what batches are drawn from: units, or the records of users who have several."""
    if isinstance(mechanism, UserLevelDPSGD):
        return mechanism.num_records
    # Every mechanism that passed the check has it.
    num_units: int = vars(mechanism)["num_units"]
    return num_units


def check_owners(mechanism: Mechanism | NoPrivacy, data: Any) -> None:
    """Checks that data say who owns which record, where the account rests on it.

    Raises:
        TypeError: records are to be drawn singly, and data do not say whose they are; or data keep
            some records of each owner, and the mechanism does not protect owners.
        ValueError: an owner has more records than the mechanism counts, or all of them together
            have another number.
    """
    if not isinstance(mechanism, UserLevelDPSGD):
        if isinstance(data, OwnedRecords) and not isinstance(mechanism, NoPrivacy):
            raise TypeError(
                f"OwnedRecords go with UserLevelDPSGD, got {type(mechanism).__name__}, whose "
                "guarantee is for what it draws: give the records alone, or RecordsByOwner with "
                "UserSampledDPSGD"
            )
        return
    if not isinstance(data, OwnedRecords):
        raise TypeError(
            f"data must be OwnedRecords with UserLevelDPSGD, got {type(data).__name__}: its ε "
            "rests on nobody having more than records_per_user records"
        )
    most, limit = int(data.owners.counts.max()), mechanism.records_per_user
    if most > limit:
        raise ValueError(
            f"at_most={data.at_most} of OwnedRecords leaves an owner {most} records, and "
            f"UserLevelDPSGD counts records_per_user={limit}. Give one number for both"
        )
    if len(data) != mechanism.num_records:
        raise ValueError(
            f"num_records must be the {len(data)} records that OwnedRecords keep, got "
            f"{mechanism.num_records}: the accountant would count something else"
        )


def mean_batch_size(mechanism: Mechanism | NoPrivacy) -> float:
    """Returns the mean number of records in a batch; the largest one of a schedule."""
    match mechanism:
        case NoPrivacy():
            return mechanism.expected_batch_size
        case DPSGDSchedule():
            return max(segment.expected_batch_size for segment in mechanism.segments)
        case BandedDPSGD():
            return mechanism.expected_batch_size
    return step_noise(mechanism).batch_size


def checked_rule(
    mechanism: Mechanism | None, clip_norm: float | None, rule: Any
) -> ClippingRule | None:
    """Returns the clipping rule; None without privacy.

    Raises:
        TypeError: not exactly one of `clip_norm` and `rule` is given, one is given without privacy,
            or the rule is none that `fit` can run.
        ValueError: the clip norm is not positive.
    """
    if mechanism is None:
        if clip_norm is not None or rule is not None:
            raise TypeError("NoPrivacy clips nothing: leave out clip_norm and rule")
        return None
    if (clip_norm is None) == (rule is None):
        raise TypeError("fit needs either clip_norm or rule, and not both")
    if isinstance(rule, AdaptiveClipping):
        raise TypeError(
            "fit has a constant clip norm: use private_gradient for a loop with AdaptiveClipping"
        )
    if clip_norm is not None:
        return FlatClipping(clip_norm)
    if not isinstance(rule, ClippingRule):
        raise TypeError(f"rule must be a clipping rule, such as FlatClipping(1.0), got {rule!r}")
    return rule


def checked_delta(mechanism: Mechanism | None, num_units: int, delta: float | None) -> float | None:
    """Returns δ, the default one where none is given; None without privacy.

    Raises:
        TypeError: δ is given without privacy.
        ValueError: δ is out of range.
    """
    if mechanism is None:
        if delta is not None:
            raise TypeError("NoPrivacy has no guarantee: leave out delta")
        return None
    value = default_delta(num_units) if delta is None else delta
    validate_delta(value, num_units)
    return value


def checked_run_key(run_key: RunKey | None) -> RunKey:
    """Returns the run key, a new one where none is given, the same in all processes.

    Raises:
        TypeError: it is no RunKey.
    """
    if run_key is None:
        return shared_run_key(None)
    if not isinstance(run_key, RunKey):
        raise TypeError(f"run_key must be a RunKey, got {type(run_key).__name__}")
    return run_key


def checked_params(params: PyTree) -> PyTree:
    """Returns a copy of the parameters, whose buffers training may take over.

    Raises:
        TypeError: a leaf is no floating point array.
        ValueError: there is no parameter, or one is not finite.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError("params must have at least one array, got none")
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "params"
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"every parameter must be a floating point array, got {name} of "
                f"{type(leaf).__name__ if dtype is None else dtype}. Pass what is not trained as "
                "frozen"
            )
        if not bool(jnp.all(jnp.isfinite(leaf))):
            raise ValueError(f"parameters must be finite, got infinite or NaN entries in {name}")
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)
