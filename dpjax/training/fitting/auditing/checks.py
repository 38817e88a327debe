"""What an audit of `fit` is refused for, before training."""

from __future__ import annotations

import collections
import hashlib
from pathlib import Path

import jax
import numpy as np
from dpjax_accounting import Mechanism, UserLevelDPSGD

from dpjax.audit import check_count
from dpjax.basics.typing import PyTree
from dpjax.privatize import why_all_must_be_present
from dpjax.training.fitting.auditing.fit_audit import FitAudit
from dpjax.training.fitting.no_privacy import NoPrivacy
from dpjax.training.fitting.records import Records, count_records, find_lengths
from dpjax.training.fitting.stored.fingerprints import contents_of, first_record


def check_audit(
    audit: FitAudit,
    data: PyTree | Records,
    mechanism: Mechanism | NoPrivacy,
    num_units: int,
    ledger: str | Path | None,
) -> None:
    """Checks that coins may put these records into training, and that the accountant counts them.

    Args:
        audit: what is to be audited.
        data: the records, without canaries.
        mechanism: as `fit` takes it.
        num_units: of the mechanism.
        ledger: as `fit` takes it.

    Raises:
        TypeError: it is no `FitAudit`, or data are neither arrays nor an object with `len` and
            `take`.
        ValueError: the mechanism does not allow that units are left out, or has another number of
            them; the canaries differ from the data in their arrays, or two of them are equal; a row
            is none of the data; there is a ledger, or there are several processes.
    """
    if not isinstance(audit, FitAudit):
        raise TypeError(f"audit must be a FitAudit, got {type(audit).__name__}")
    lengths = find_lengths(data)
    if len(lengths) > 1:
        found = " and ".join(map(str, sorted(lengths)))
        raise ValueError(f"all arrays of data must have as many records, got {found}")
    if jax.process_count() > 1:
        raise ValueError(
            f"audit must be left out where {jax.process_count()} processes train: scores are "
            "computed in one"
        )
    if ledger is not None:
        raise ValueError(
            f"ledger={ledger} is of runs that train on all records and no canaries: give no "
            "ledger, or no audit"
        )
    _check_mechanism(mechanism)
    (num_records,) = lengths
    expected = audit.num_units(num_records)
    if num_units != expected:
        canaries = "" if audit.canaries is None else f" and {audit.num_coins} canaries"
        raise ValueError(
            f"the mechanism must have num_units={expected}, got {num_units}: of {num_records} "
            f"records{canaries}, {audit.num_coins} are in training only if a fair coin says so, "
            "and half of these count, the number expected. Give audit.num_units(len(data))"
        )
    if audit.canaries is None:
        largest = audit.row_numbers.max()
        if largest >= num_records:
            raise ValueError(
                f"rows of audit must be rows of the {num_records} records, got {largest}"
            )
        return
    own, other = first_record(data), first_record(audit.canaries)
    if own != other:
        raise ValueError(f"a canary must have the arrays of a record, which are {own}, got {other}")
    repeated = len(audit.row_numbers) + audit.num_coins - len(digests_of(audit.canaries))
    if repeated:
        raise ValueError(
            f"the audit cannot start: {repeated} of {audit.num_coins} canaries are equal to another"
            " one, and no score could tell them apart"
        )


def check_power(audit: FitAudit, mechanism: Mechanism | None, delta: float) -> None:
    """Refuses so few coins that they could certify nothing.

    Args:
        audit: what is to be audited.
        mechanism: what the accountant counts; None without privacy.
        delta: that the claim is made at.

    Raises:
        ValueError: says how many are needed.
    """
    check_count(
        audit.num_coins,
        claimed_epsilon=None if mechanism is None else mechanism.epsilon(delta),
        delta=delta,
        confidence=audit.confidence,
        audited="records" if audit.canaries is None else "canaries",
    )


def digests_of(
    data: PyTree | Records, rows: np.ndarray | None = None
) -> collections.Counter[bytes]:
    """Counts how often each content occurs among the records at `rows`; default: all of them."""
    rows = np.arange(count_records(data)) if rows is None else rows
    return collections.Counter(hashlib.sha256(c).digest() for c in contents_of(data, rows))


def _check_mechanism(mechanism: Mechanism | NoPrivacy) -> None:
    if isinstance(mechanism, NoPrivacy):
        return
    name = type(mechanism).__name__
    if isinstance(mechanism, UserLevelDPSGD):
        raise ValueError(
            "an audit flips a coin for each record, and its bound holds for records: with "
            "UserLevelDPSGD the claim is one for owners. Take UserSampledDPSGD, or no audit"
        )
    reason = why_all_must_be_present(type(mechanism))
    if reason is not None:
        raise ValueError(
            f"an audit leaves records out, which {name} cannot: {reason}. Take DPSGD or another "
            "mechanism that draws each record by itself, or no audit"
        )
    if mechanism.neighboring == "replace_one":
        raise ValueError(
            f"an audit adds or removes records, got {name} with neighboring='replace_one'. Give "
            "neighboring='add_or_remove_one', or no audit"
        )
