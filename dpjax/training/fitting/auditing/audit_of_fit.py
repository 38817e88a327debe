"""The audit of one run of `fit`: its coins, its scores and its report."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from dpjax_accounting import Mechanism, default_delta

from dpjax.audit import (
    PRIVATE_RECORDS,
    Coins,
    Manifest,
    build_run_audit,
    flip_coins,
    hold_out,
    number_ids,
    read_manifest,
    seal,
)
from dpjax.basics.typing import PyTree
from dpjax.privatize import RunKey
from dpjax.training.devices.layout import Layout
from dpjax.training.fitting.auditing.checks import digests_of
from dpjax.training.fitting.auditing.fit_audit import FitAudit, WithCanaries
from dpjax.training.fitting.auditing.scores import score_records
from dpjax.training.fitting.records import Records, count_records
from dpjax.training.fitting.stored.fingerprints import first_record, hash_of_trace
from dpjax.training.steps import Loss

_GIVEN, _RECORDS = "given", "hold-out"
_DEFAULT_SCORE = "loss drop"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class CoinsOfFit:
    """Which records coins put into training, and which they leave out.

    Attributes:
        audit: what was asked for.
        coins: read by the sampler, and again after training.
        slots: all that training may draw from.
        rows: `(m,)`, the slot of each coin.
        present: `(len(slots),)` bool, False where a coin leaves a record out.
        num_records: how many records there are, without canaries.
    """

    audit: FitAudit
    coins: Coins
    slots: PyTree | Records
    rows: np.ndarray
    present: np.ndarray
    num_records: int

    @property
    def kind(self) -> str:
        """What the manifest calls the records with coins."""
        return _RECORDS if self.audit.canaries is None else _GIVEN


def flip(audit: FitAudit, data: PyTree | Records, run_key: RunKey) -> CoinsOfFit:
    """Flips the coins of an audit that was checked; the same key flips the same ones.

    Ids are numbers, for the manifest is public.

    Args:
        audit: what is to be audited.
        data: the records, without canaries.
        run_key: the secret of the run.
    """
    num_records, num_coins = count_records(data), audit.num_coins
    if audit.canaries is None:
        all_ids, rows = number_ids("record", num_records), audit.row_numbers
        coins = hold_out([all_ids[row] for row in rows], run_key=run_key).coins
        slots, num_slots = data, num_records
    else:
        coins = flip_coins(number_ids("canary", num_coins), run_key=run_key)
        rows = num_records + np.arange(num_coins)
        slots, num_slots = WithCanaries(data, audit.canaries), num_records + num_coins
    present = np.ones(num_slots, np.bool_)
    present[rows] = coins.included
    return CoinsOfFit(
        audit=audit, coins=coins, slots=slots, rows=rows, present=present, num_records=num_records
    )


class AuditOfFit:
    """Scores the records with coins before training and after it, and judges the claim.

    Args:
        flipped: who has which coin.
        loss: of one record, `(params, record, frozen) -> scalar`.
        score: in its place, `(params, record, frozen) -> scalar`, higher for records that training
            saw; None for the default.
        params: before training, for the default score.
        frozen: what both read beside the parameters.
        delta: of the guarantee; None without privacy.
        batch_size: records at once.
        layout: where arrays lie; None for a single device.
    """

    def __init__(
        self,
        flipped: CoinsOfFit,
        loss: Loss,
        score: Loss | None,
        params: PyTree,
        frozen: PyTree,
        *,
        delta: float | None,
        batch_size: int,
        layout: Layout | None,
    ) -> None:
        self._flipped, self._loss, self._score, self._frozen = flipped, loss, score, frozen
        self._delta = default_delta(flipped.num_records) if delta is None else delta
        self._batch_size, self._layout = batch_size, layout
        # Training takes over the buffers of these parameters.
        self._before = self._scores(loss, params) if score is None else np.zeros(0)

    def identity(self, params: PyTree) -> dict[str, Any]:
        """Returns what must be the same on resumption, beside the records; ready for JSON."""
        audit, record = self._flipped.audit, first_record(self._flipped.slots)
        traced = None
        if self._score is not None:
            traced = hash_of_trace(self._score, params, record, self._frozen)
        rows = np.ascontiguousarray(audit.row_numbers, "<i8").tobytes()
        return {
            "kind": self._flipped.kind,
            "coins": audit.num_coins,
            "rows": hashlib.sha256(rows).hexdigest(),
            "score": traced,
            "confidence": audit.confidence,
        }

    def seal(self, folder: Path, run_key: RunKey) -> None:
        """Writes the manifest, which fixes the coins, and the coins into private/."""
        seal(folder, self._flipped.coins, run_key=run_key, kind=self._flipped.kind)

    def disclose(self, report: dict[str, Any], *, is_private: bool) -> dict[str, Any]:
        """Returns a privacy report that says what the coins mean for it."""
        trust = report["trust"]
        secret = [*trust["kept_secret"], "The report of the audit, audit.json and audit.html."]
        report = report | {"trust": trust | {"kept_secret": secret}}
        if not is_private:
            return report
        num = self._flipped.audit.num_coins
        if self._flipped.audit.canaries is None:
            who, whose = f"{num} entries of the data have a fair coin", "entry"
        else:
            who, whose = f"{num} canaries beside the data have a fair coin", "canary"
        counted = (
            f"{who} each, which decided whether training saw it. ε counts no protection by the "
            f"coins: it holds for each {whose} even if all coins are known. n has half of these, "
            "the number expected."
        )
        use = {
            "use": f"Audit of {'records' if whose == 'entry' else 'canaries'}",
            "status": "not covered",
            "explanation": f"Its report has the coin and the score of every {whose}. Do not "
            f"publish it, unless every {whose} is made up.",
        }
        return report | {
            "assumptions": [*report["assumptions"], counted],
            "data_uses": [*report["data_uses"], use],
        }

    def build(
        self,
        params: PyTree,
        privacy: dict[str, Any],
        mechanism: Mechanism | None,
        folder: Path | None,
    ) -> dict[str, Any]:
        """Returns the report of the audit after the last step, ready for JSON.

        Args:
            params: after the last step.
            privacy: the privacy report of all steps.
            mechanism: what the accountant counts; None without privacy.
            folder: of the run; None without one.

        Raises:
            FileNotFoundError, ValueError: the manifest is missing, or was changed since training
                began; or a score is no number.
        """
        flipped, coins = self._flipped, self._flipped.coins
        manifest = self._manifest() if folder is None else read_manifest(folder)
        if manifest.coins_commitment != coins.commitment():
            raise ValueError(f"the manifest in {folder} is not the one that training began with")
        audit = flipped.audit
        if self._score is None:
            name, scores = _DEFAULT_SCORE, self._before - self._scores(self._loss, params)
        else:
            name = getattr(audit.score, "__name__", "score")
            scores = self._scores(self._score, params)
        if np.isnan(scores).any():
            raise ValueError(
                f"the score of {coins.ids[int(np.argmax(np.isnan(scores)))]} is no number, and no "
                "bound holds without it"
            )
        guarantee = privacy["guarantee"]
        notes, details = self._describe_records()
        return build_run_audit(
            coins,
            manifest,
            scores,
            score=name,
            kind=flipped.kind,
            audited="records" if audit.canaries is None else "canaries",
            num_training_records=flipped.num_records,
            delta=self._delta,
            claimed_epsilon=None if guarantee is None else guarantee["epsilon"],
            mechanism=mechanism,
            confidence=audit.confidence,
            notes=notes,
            details=details,
        )

    def _scores(self, score: Loss, params: PyTree) -> np.ndarray:
        return score_records(
            score,
            params,
            self._frozen,
            self._flipped.slots,
            self._flipped.rows,
            batch_size=self._batch_size,
            layout=self._layout,
        )

    def _manifest(self) -> Manifest:
        coins = self._flipped.coins
        return Manifest(
            kind=self._flipped.kind,
            ids=coins.ids,
            probability_out=coins.probability_out,
            fixed_seed=coins.fixed_seed,
            coins_commitment=coins.commitment(),
            records_commitment=None,
        )

    def _describe_records(self) -> tuple[list[str], dict[str, Any]]:
        """Says what weakens an audit of real records, and what it must not be read without."""
        if self._flipped.audit.canaries is not None:
            return [], {}
        slots, rows, coins = self._flipped.slots, self._flipped.rows, self._flipped.coins
        trained = digests_of(slots, rows[coins.included])
        left_out = digests_of(slots, rows[~coins.included])
        num_left_out = int((~coins.included).sum())
        num_copies = sum(count for digest, count in left_out.items() if digest in trained)
        notes = [PRIVATE_RECORDS]
        if num_copies:
            notes.append(
                f"{num_copies} of {num_left_out} records that were left out are equal to one that "
                "training saw. The model knows them too: the audit finds less than it could."
            )
        details = {
            "left_out": num_left_out,
            "left_out_with_a_copy_among_audited_records_in_training": num_copies,
        }
        return notes, details
