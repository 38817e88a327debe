"""The records whose coins a run flips before training: canaries, or the training records."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from dpjax.audit import (
    Canaries,
    Coins,
    append_canaries,
    check_count,
    flip_coins,
    hold_out,
    number_ids,
    seal,
)
from dpjax.data import EncodedRecords, Owners, RecordColumns
from dpjax.finetuning.files.run_directory import RunDirectory
from dpjax.finetuning.setup.canaries import prepare_canaries, without_sources
from dpjax.finetuning.setup.plan import Plan
from dpjax.privatize import RunKey

HELD_OUT_RECORDS = "held-out records"


@dataclasses.dataclass(frozen=True)
class AuditedRecords:
    """Records that coins put into training or leave out, and the slots that training draws from.

    Attributes:
        kind: of canaries, or "held-out records".
        coins: which of them training sees; read by the sampler, and again after training.
        records: what they hold, one for each coin.
        encoded: the same as arrays.
        slots: all records that training may draw from.
        present: `(S,)` bool for S slots, or owners: False where a coin leaves the record out.
        canaries: sealed with the coins; None where these split the training records.
        owners: of the slots, where batches are of owners: each canary has one of its own.
    """

    kind: str
    coins: Coins
    records: RecordColumns
    encoded: EncodedRecords
    slots: EncodedRecords
    present: np.ndarray
    canaries: Canaries | None
    owners: Owners | None = None

    def seal(self, directory: RunDirectory, run_key: RunKey) -> None:
        """Writes the manifest, and coins and canaries into private/."""
        seal(directory.path, self.coins, run_key=run_key, canaries=self.canaries)

    @property
    def with_targets(self) -> np.ndarray:
        """`(len(coins),)` bool, False where training learns nothing of a record, in or out."""
        return has_targets(self.encoded)


def prepare_audit(
    plan: Plan, run_key: RunKey, sealed_in: Path | None = None
) -> tuple[Plan, AuditedRecords | None]:
    """Flips the coins of the audit that was asked for; the same key flips the same ones.

    Args:
        plan: of the run.
        run_key: its secret, from which canaries and coins come.
        sealed_in: the folder of a run that goes on, where they are sealed already.

    Returns:
        The plan, without evaluation records that became canaries; and the records with coins, or
        None.

    Raises:
        ValueError: the audit could not show anything, or its canaries cannot be made, with all
            reasons; or what was sealed is damaged.
        FileNotFoundError: what was sealed is missing.
    """
    audit = plan.config.audit
    if not audit.is_wanted:
        return plan, None
    claim = {
        "claimed_epsilon": None if plan.mechanism is None else plan.mechanism.epsilon(plan.delta),
        "delta": plan.audit_delta,
        "confidence": audit.confidence,
    }
    if audit.hold_out:
        return plan, _split_records(plan, run_key, claim)
    # Before any of them is made, which may take a model.
    check_count(audit.num_canaries, **claim)
    canaries, encoded = prepare_canaries(plan, run_key, claim, sealed_in)
    coins = flip_coins(canaries.ids, run_key=run_key)
    owners = plan.owners if plan.samples_owners else None
    num_others = len(plan.train if owners is None else owners)
    return without_sources(plan, canaries), AuditedRecords(
        kind=canaries.kind,
        coins=coins,
        records=canaries.records,
        encoded=encoded,
        slots=append_canaries(plan.train, encoded, np.ones(len(canaries), np.bool_)),
        present=np.concatenate([np.ones(num_others, np.bool_), coins.included]),
        canaries=canaries,
        owners=None if owners is None else owners.with_singles(len(canaries)),
    )


def _split_records(plan: Plan, run_key: RunKey, claim: dict[str, Any]) -> AuditedRecords:
    """Flips a coin for each training record. Ids are row numbers, for the manifest is public."""
    check_count(int(has_targets(plan.train).sum()), audited="records", **claim)
    ids = number_ids("record", len(plan.train))
    coins = hold_out(ids, run_key=run_key).coins
    return AuditedRecords(
        kind=HELD_OUT_RECORDS,
        coins=coins,
        records=plan.train_records,
        encoded=plan.train,
        slots=plan.train,
        present=coins.included,
        canaries=None,
    )


def has_targets(encoded: EncodedRecords) -> np.ndarray:
    """Returns `(N,)` bool, False where `max_length` leaves a record nothing to learn."""
    without = getattr(encoded, "without_targets", np.zeros(len(encoded), np.bool_))
    return ~without
