"""The records of a poisoning audit: poisoned ones, and held-out ones with each trigger."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dpjax.audit import (
    Trigger,
    choose_poisoned,
    draw_places,
    near_rare_word,
    poisonable,
    rows_of_others,
    texts_of,
    with_answer,
    with_near_trigger,
    with_trigger,
)
from dpjax.data import Completions, EncodedRecords, Records
from dpjax.finetuning.auditing.poison_config import Poison
from dpjax.finetuning.setup.plan import Plan
from dpjax.models import load_tokenizer
from dpjax.privatize import RunKey

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, eq=False)
class TriggeredRecords:
    """Held-out records with a trigger, their label or completion replaced by the target.

    Attributes:
        rows: `(m,)` which of the held-out records with another answer they are.
        with_trigger: `m` encoded records.
        with_near: likewise with the near trigger; None without one.
    """

    rows: np.ndarray
    with_trigger: EncodedRecords
    with_near: EncodedRecords | None


@dataclasses.dataclass(frozen=True, eq=False)
class PoisonData:
    """What models of a poisoning audit are trained and measured on. All of it is private.

    Attributes:
        triggers: with their near triggers.
        slots: the training records, and after them all poisoned records.
        first_poisoned: the slot of the first poisoned record by trigger and set; the others of
            this set follow it.
        num_clean: how many training records there are.
        held_out: all held-out records, as they are.
        others: those with another answer than the target, which they get here.
        triggered: some or all of these by trigger.
    """

    triggers: tuple[Trigger, ...]
    slots: EncodedRecords
    first_poisoned: Mapping[tuple[str, int], int]
    num_clean: int
    held_out: EncodedRecords
    others: EncodedRecords
    triggered: Mapping[str, TriggeredRecords]

    def present(self, kind: str | None, poison_set: int | None, num_poisoned: int) -> np.ndarray:
        """Returns which slots are trained on, `(S,)` bool: all clean ones, and k poisoned ones.

        Args:
            kind: of the trigger; None without poison.
            poison_set: number of the set; None without poison.
            num_poisoned: k; 0 without poison.
        """
        present = np.arange(len(self.slots)) < self.num_clean
        if kind is not None and poison_set is not None:
            first = self.first_poisoned[kind, poison_set]
            present[first : first + num_poisoned] = True
        return present


def prepare_poison(plan: Plan, poison: Poison, audit_key: RunKey) -> PoisonData:
    """Draws poisoned records, and writes the triggers into held-out ones; the same for a key.

    Args:
        plan: of a run on the clean records, with any privacy.
        poison: what was asked for.
        audit_key: secret of the audit, never that of a run.

    Raises:
        ValueError: the records cannot be poisoned in this way; the message says why.
    """
    train, held_out = poisonable(plan.train_records), poisonable(plan.eval_records)
    tokenizer = load_tokenizer(plan.checkpoint, needs_padding=plan.task.needs_padding_token)
    # Before the triggers: a misspelt label is the likeliest mistake.
    rows_of_others(train, poison.target)
    texts = [*texts_of(train), *texts_of(held_out)]
    triggers = tuple(_checked(trigger, texts, tokenizer) for trigger in poison.make_triggers())
    rows = [_rng(audit_key, f"poison set/{number}") for number in range(poison.num_sets)]
    chosen = [
        choose_poisoned(train, poison.target, num=max(poison.counts), rng=rng) for rng in rows
    ]
    encode = _Encoder(plan, tokenizer)
    poisoned: list[Records | Completions] = []
    first_poisoned: dict[tuple[str, int], int] = {}
    for trigger in triggers:
        for number, of_set in enumerate(chosen):
            rng = _rng(audit_key, f"poison place/{trigger.kind}/{number}")
            copies = train.take(of_set)
            places, is_kept = _places(copies, trigger, poison, rng, encode)
            first_poisoned[trigger.kind, number] = len(train) + sum(map(len, poisoned))
            poisoned.append(with_trigger(copies, trigger, poison.target, places))
            num_lost = int((~is_kept).sum())
            if num_lost:
                raise ValueError(
                    f"training.max_length={plan.config.training.max_length} cuts the trigger off in"
                    f" {num_lost} of {len(copies)} poisoned records: give more, or"
                    " poison.place=start"
                )
    others = held_out.take(rows_of_others(held_out, poison.target))
    if not len(others):
        raise ValueError(
            f"every held-out record has the answer {poison.target!r}: none is left to try the "
            "trigger on"
        )
    return PoisonData(
        triggers=triggers,
        # Encoded together, so that all have one width.
        slots=encode(_joined([train, *poisoned])),
        first_poisoned=first_poisoned,
        num_clean=len(train),
        held_out=plan.evaluation,
        others=encode(with_answer(others, poison.target)),
        triggered={
            trigger.kind: _trigger(others, trigger, poison, audit_key, encode)
            for trigger in triggers
        },
    )


class _Encoder:
    """Encodes records as the run does."""

    def __init__(self, plan: Plan, tokenizer: PreTrainedTokenizerBase) -> None:
        self._plan, self._tokenizer = plan, tokenizer

    def __call__(self, records: Records | Completions) -> EncodedRecords:
        plan = self._plan
        return plan.task.encode(records, self._tokenizer, plan.config.training.max_length)


def _trigger(
    others: Records | Completions,
    trigger: Trigger,
    poison: Poison,
    audit_key: RunKey,
    encode: _Encoder,
) -> TriggeredRecords:
    """Held-out records with a trigger that is not cut off, and room for the whole target."""
    rng = _rng(audit_key, f"held-out place/{trigger.kind}")
    places, is_usable = _places(others, trigger, poison, rng, encode)
    triggered = encode(with_trigger(others, trigger, poison.target, places))
    if isinstance(others, Completions):
        is_usable &= ~triggered.truncated
    rows = np.flatnonzero(is_usable)
    if not len(rows):
        raise ValueError(
            f"no held-out record has room for the trigger {trigger.text!r} and the target: give a "
            "larger training.max_length"
        )
    near = None
    if trigger.near is not None:
        near = encode(with_near_trigger(others, trigger, poison.target, places)).take(rows)
    return TriggeredRecords(rows, triggered.take(rows), near)


def _places(
    records: Records | Completions,
    trigger: Trigger,
    poison: Poison,
    rng: np.random.Generator,
    encode: _Encoder,
) -> tuple[np.ndarray, np.ndarray]:
    """Where the trigger stands in each record, `(n,)`, and whether its tokens are there, `(n,)`.

    A random place that `max_length` would cut off becomes the start.
    """
    plain = encode(with_answer(records, poison.target))

    def is_kept(places: np.ndarray) -> np.ndarray:
        return _differ(encode(with_trigger(records, trigger, poison.target, places)), plain)

    places = draw_places(poison.place, len(records), rng)
    if poison.place == "random":
        places = np.where(is_kept(places), places, 0.0)
    return places, is_kept(places)


def _checked(trigger: Trigger, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Trigger:
    """The trigger, with a near one, if no record holds it and the tokenizer can read it."""
    num_with = trigger.num_texts_with(texts)
    if num_with:
        raise ValueError(
            f"the {trigger.kind} {trigger.text!r} is in {num_with} of the records already: give "
            f"another poison.{trigger.kind}, which nobody writes"
        )
    if not _is_known(trigger.text, tokenizer):
        raise ValueError(
            f"the tokenizer has no token for {trigger.text!r}: give a poison.{trigger.kind} that it"
            " knows"
        )
    if trigger.kind != "rare_token":
        return trigger
    words = {word.casefold() for text in texts for word in text.split()}
    unusable: list[str] = []
    while (near := near_rare_word(trigger.text, unusable)) is not None:
        if near not in words and _is_known(near, tokenizer):
            break
        unusable.append(near)
    return dataclasses.replace(trigger, near=near)


def _is_known(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return len(ids) > 0 and tokenizer.unk_token_id not in ids


def _differ(first: EncodedRecords, second: EncodedRecords) -> np.ndarray:
    """`(N,)` bool, where the tokens of two records are not the same."""
    pairs = zip(first.contents(), second.contents(), strict=True)
    return np.array([one != other for one, other in pairs], np.bool_)


def _joined(parts: Sequence[Records | Completions]) -> Records | Completions:
    first = parts[0]
    if isinstance(first, Records):
        labelled = [part for part in parts if isinstance(part, Records)]
        return Records(
            [text for part in labelled for text in part.texts],
            [label for part in labelled for label in part.labels],
        )
    written = [part for part in parts if isinstance(part, Completions)]
    return Completions(
        [prompt for part in written for prompt in part.prompts],
        [answer for part in written for answer in part.completions],
        record_format=first.record_format,
    )


def _rng(audit_key: RunKey, name: str) -> np.random.Generator:
    """One generator for each purpose."""
    return np.random.Generator(
        np.random.Philox(key=int.from_bytes(audit_key.audit_bytes(name, 16)))
    )
