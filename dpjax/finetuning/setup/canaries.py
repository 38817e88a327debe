"""The canaries of a run: made, checked and sealed before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dpjax.audit import (
    CANARY_KINDS,
    Canaries,
    Coins,
    append_canaries,
    check_canaries,
    encode_canaries,
    flip_coins,
    make_canaries,
    seal,
)
from dpjax.data import EncodedRecords
from dpjax.finetuning.files.run_directory import RunDirectory
from dpjax.finetuning.setup.plan import Plan
from dpjax.models import load_tokenizer, read_config
from dpjax.privatize import RunKey

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    audit = plan.config.audit
    if audit.num_canaries == 0:
        return plan, None
    tokenizer = load_tokenizer(plan.checkpoint, needs_padding=plan.task.needs_padding_token)
    canaries = _make(plan, run_key, tokenizer)
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


def _make(plan: Plan, run_key: RunKey, tokenizer: PreTrainedTokenizerBase) -> Canaries:
    audit, vocab_size = plan.config.audit, read_config(plan.checkpoint).vocab_size
    kind = audit.kind
    if kind == "auto":
        kind = plan.task.auto_canary_kind(audit.num_canaries, tokenizer, vocab_size)
    # Read again, the text may have more tokens than were drawn.
    num_tokens = min(_CANARY_TOKENS, max(1, plan.config.training.max_length // 2))
    # What a run has for the makers; some of it is made only for those that take it.
    makes: dict[str, Callable[[], Any]] = {
        "tokenizer": lambda: tokenizer,
        "vocab_size": lambda: vocab_size,
        "num_tokens": lambda: num_tokens,
        "label_names": lambda: plan.task.labels,
        "held_out": lambda: plan.eval_records,
    }
    names = [name for name in CANARY_KINDS[kind].ingredients if name in makes]
    ingredients = {name: makes[name]() for name in names}
    return make_canaries(kind, audit.num_canaries, run_key=run_key, **ingredients)


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
