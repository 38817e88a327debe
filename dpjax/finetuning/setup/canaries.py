"""The canaries of a run: made, checked and sealed before training."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dpjax.audit import (
    Canaries,
    Coins,
    append_canaries,
    check_canaries,
    encode_canaries,
    find_unused_tokens,
    flip_coins,
    make_canaries,
    seal,
)
from dpjax.data import EncodedRecords, Records
from dpjax.finetuning.files.run_directory import RunDirectory
from dpjax.finetuning.setup.plan import Plan
from dpjax.models import load_tokenizer, read_config
from dpjax.privatize import RunKey

_CANARY_TOKENS = 32


@dataclasses.dataclass(frozen=True)
class RunCanaries:
    """The canaries of a run, and the slots of records that training draws from.

    Attributes:
        canaries: what they hold.
        coins: which of them training sees; read by the sampler, and again after training.
        encoded: the canaries as arrays, all of them.
        slots: the training records, then all canaries.
        present: `(len(slots),)` bool: all training records, and the canaries that coins include.
    """

    canaries: Canaries
    coins: Coins
    encoded: EncodedRecords
    slots: EncodedRecords
    present: np.ndarray

    def seal(self, directory: RunDirectory, run_key: RunKey) -> None:
        """Writes the manifest, and coins and canaries into private/."""
        seal(directory.path, self.coins, run_key=run_key, canaries=self.canaries)


def prepare_canaries(plan: Plan, run_key: RunKey) -> tuple[Plan, RunCanaries | None]:
    """Makes and checks the canaries that were asked for; the same key makes the same ones.

    Args:
        plan: of the run.
        run_key: its secret, from which canaries and coins come.

    Returns:
        The plan, without held-out records that became canaries; and the canaries, or None.

    Raises:
        ValueError: the canaries cannot be made, or could not show anything, with all reasons.
    """
    audit, task = plan.config.audit, plan.config.task
    if audit.num_canaries == 0:
        return plan, None
    tokenizer = load_tokenizer(plan.checkpoint, needs_padding=plan.task.needs_padding_token)
    kind = audit.kind_of(task)
    ingredients: dict[str, Any] = {"tokenizer": tokenizer}
    if kind == "new-token":
        vocab_size = read_config(plan.checkpoint).vocab_size
        unused = find_unused_tokens(tokenizer, vocab_size)
        if audit.kind == "auto" and len(unused) < audit.num_canaries:
            kind = "random-tokens"
        else:
            ingredients |= {"vocab_size": vocab_size, "tokens": unused}
    if kind in ("random-tokens", "random-labelled"):
        # Read again, the text may have more tokens than were drawn.
        longest = plan.config.training.max_length
        ingredients["num_tokens"] = min(_CANARY_TOKENS, max(1, longest // 2))
    if kind == "random-labelled":
        ingredients["label_names"] = plan.task.labels
    if kind == "mislabelled":
        assert isinstance(plan.eval_records, Records)
        ingredients = {"held_out": plan.eval_records, "label_names": plan.task.labels}
    canaries = make_canaries(kind, audit.num_canaries, run_key=run_key, **ingredients)
    encoded = encode_canaries(
        canaries,
        tokenizer,
        plan.config.training.max_length,
        label_names=plan.task.labels,
        separator=plan.config.separator,
        today=plan.started_at,
    )
    check_canaries(
        canaries,
        encoded,
        plan.train,
        tokenizer,
        claimed_epsilon=None if plan.mechanism is None else plan.mechanism.epsilon(plan.delta),
        delta=plan.audit_delta,
        confidence=audit.confidence,
        most_share=audit.most_share,
    )
    coins = flip_coins(canaries.ids, run_key=run_key)
    everyone = np.ones(len(canaries), np.bool_)
    return _without_rows(plan, canaries.source_rows), RunCanaries(
        canaries=canaries,
        coins=coins,
        encoded=encoded,
        slots=append_canaries(plan.train, encoded, everyone),
        present=np.concatenate([np.ones(len(plan.train), np.bool_), coins.included]),
    )


def _without_rows(plan: Plan, rows: tuple[int, ...]) -> Plan:
    """Returns the plan without held-out records that training may see now."""
    if not rows:
        return plan
    kept = np.setdiff1d(np.arange(len(plan.evaluation)), rows)
    if not len(kept):
        raise ValueError(
            f"audit.num_canaries={len(rows)} takes every held-out record of"
            f" {plan.config.eval_data.path}; take fewer, or give more held-out records"
        )
    return dataclasses.replace(plan, evaluation=plan.evaluation.take(kept))
