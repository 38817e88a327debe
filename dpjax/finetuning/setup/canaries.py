"""The canaries of a run: made and checked before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpjax.audit import (
    CANARY_KINDS,
    Canaries,
    check_canaries,
    encode_canaries,
    make_canaries,
    read_canaries,
)
from dpjax.data import EncodedRecords, Records, TaggedWords
from dpjax.finetuning.setup.plan import Plan
from dpjax.models import load_tokenizer, read_config
from dpjax.privatize import RunKey

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CANARY_TOKENS = 32


def prepare_canaries(
    plan: Plan, run_key: RunKey, claim: dict[str, Any], sealed_in: Path | None
) -> tuple[Canaries, EncodedRecords]:
    """Makes and checks the canaries that were asked for; the same key makes the same ones.

    Args:
        plan: of the run.
        run_key: its secret, from which canaries come.
        claim: what they are to test: `claimed_epsilon`, `delta` and `confidence`.
        sealed_in: the folder of a run that goes on. Canaries that a model has written are read from
            there: written again they may come out otherwise.

    Returns:
        The canaries, and the same as arrays.

    Raises:
        ValueError: the canaries cannot be made, or could not show anything, with all reasons; or
            those that are sealed are damaged.
        FileNotFoundError: those that are sealed are missing.
    """
    tokenizer = load_tokenizer(plan.checkpoint, needs_padding=plan.task.needs_padding_token)
    canaries = _make(plan, run_key, tokenizer, sealed_in)
    max_length = plan.config.training.max_length
    if isinstance(canaries.records, Records | TaggedWords):
        encoded: EncodedRecords = plan.task.encode(canaries.records, tokenizer, max_length)
    else:
        encoded = encode_canaries(
            canaries,
            tokenizer,
            max_length,
            separator=plan.config.separator,
            today=plan.started_at,
        )
    most_share = plan.config.audit.most_share
    check_canaries(canaries, encoded, plan.train, tokenizer, most_share=most_share, **claim)
    return canaries, encoded


def without_sources(plan: Plan, canaries: Canaries) -> Plan:
    """Returns the plan without evaluation records that became canaries.

    Raises:
        ValueError: none would be left.
    """
    rows = canaries.source_rows
    if not rows:
        return plan
    kept = np.setdiff1d(np.arange(len(plan.evaluation)), rows)
    if not len(kept):
        raise ValueError(
            f"audit.num_canaries={len(rows)} takes every held-out record of"
            f" {plan.config.eval_data.path}; take fewer, or give more held-out records"
        )
    return dataclasses.replace(
        plan, evaluation=plan.evaluation.take(kept), eval_records=plan.eval_records.take(kept)
    )


def _make(
    plan: Plan, run_key: RunKey, tokenizer: PreTrainedTokenizerBase, sealed_in: Path | None
) -> Canaries:
    audit, vocab_size = plan.config.audit, read_config(plan.checkpoint).vocab_size
    kind = audit.kind
    if kind == "auto":
        kind = plan.task.auto_canary_kind(audit.num_canaries, tokenizer, vocab_size)
    maker = CANARY_KINDS[kind]
    if sealed_in is not None and "model" in maker.needs:
        return read_canaries(sealed_in)
    # Read again, the text may have more tokens than were drawn.
    num_tokens = min(_CANARY_TOKENS, max(1, plan.config.training.max_length // 2))
    # What a run has for the makers; some of it is made only for those that take it.
    makes: dict[str, Callable[[], Any]] = {
        "tokenizer": lambda: tokenizer,
        "vocab_size": lambda: vocab_size,
        "num_tokens": lambda: num_tokens,
        "label_names": lambda: plan.task.labels,
        "held_out": lambda: plan.eval_records,
        "record_type": lambda: type(plan.eval_records),
        "model": lambda: plan.task.load(
            plan.checkpoint, plan.config, run_key.model_key("head"), plan.config.compute.loading()
        ),
        # The model writes what it thinks a text is: no record is read.
        "prompts": lambda: (tokenizer.bos_token or tokenizer.eos_token,),
    }
    names = [name for name in maker.ingredients if name in makes]
    ingredients = {name: makes[name]() for name in names}
    return make_canaries(kind, audit.num_canaries, run_key=run_key, **ingredients)
