"""Prompts with two answers, checked: the one that was preferred, and the other."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpjax.data.read.columns import Wanted
from dpjax.data.read.read import read_columns
from dpjax.data.records.base import RecordsWithTools
from dpjax.data.records.checks import Checked, check_records
from dpjax.data.records.language import Completions, Content, check_answer
from dpjax.data.records.messages import check_messages
from dpjax.data.source import DataSource

_LAYOUT = ("chosen", "rejected")


@dataclasses.dataclass(frozen=True)
class Preferences(RecordsWithTools):
    """Prompts, each with the answer that was preferred and the one that was not.

    In the order of the source. Nothing is empty, and the answers of a record differ. Those of one
    record and its prompt are all strings or all lists of messages; an answer's messages are all the
    assistant's.

    Example:
        >>> Preferences(["Is it open?"], ["Until six."], ["No idea."]).answers("chosen")
        Completions(prompts=['Is it open?'], completions=['Until six.'])
    """

    prompts: list[Content]
    chosen: list[Content]
    rejected: list[Content]

    def answers(self, side: str) -> Completions:
        """The prompts with their answers on one side, "chosen" or "rejected"."""
        return Completions(self.prompts, getattr(self, side), tools=self.tools)


def read_preferences(source: DataSource) -> Preferences:
    """Reads and checks every record of `source`.

    The prompt may be left out where both answers are messages: it then is what both begin with. A
    prompt that is a text may be repeated in front of answers that are messages.

    Raises:
        FileNotFoundError: there is no such file or dataset; names similar files.
        ValueError: the source cannot be read as said, or a record lacks a prompt or an answer, or
            has the same answer twice. Lines are named, but never quoted: they are private.

    Example:
        >>> from pathlib import Path
        >>> record = '{"prompt": "Is it open?", "chosen": "Until six.", "rejected": "No idea."}'
        >>> _ = Path("pairs.jsonl").write_text(record)
        >>> read_preferences(DataSource("pairs.jsonl")).chosen
        ['Until six.']
    """
    # A name that somebody gave must be there.
    is_named = source.prompt_column != DataSource.prompt_column
    raw = read_columns(Wanted(source, ((*_LAYOUT, "prompt") if is_named else _LAYOUT,)))
    columns, owners, tools = check_records(raw, source, _check)
    return Preferences(*columns, owners=owners, tools=tools)


def _check(
    chosen: object, rejected: object, prompt: object = None
) -> tuple[Checked, Checked, Checked]:
    are_messages = isinstance(chosen, list) and isinstance(rejected, list)
    if are_messages and (prompt is None or isinstance(prompt, str)):
        talks = check_messages(chosen, "chosen"), check_messages(rejected, "rejected")
        problem = next((problem for _, problem in talks if problem), None)
        if problem is None:
            prompt, chosen, rejected, problem = _split(talks[0][0], talks[1][0], prompt)
        if problem is not None:
            return ([], problem), ([], None), ([], None)
    if prompt is None:
        return ([], "no prompt, which answers that are texts need"), ([], None), ([], None)
    checked_prompt, checked_chosen = check_answer(prompt, chosen, "chosen")
    _, checked_rejected = check_answer(prompt, rejected, "rejected")
    is_right = not any(problem for _, problem in (checked_prompt, checked_chosen, checked_rejected))
    if is_right and checked_chosen[0] == checked_rejected[0]:
        return checked_prompt, checked_chosen, ([], "the same answer as chosen and as rejected")
    return checked_prompt, checked_chosen, checked_rejected


def _split(
    chosen: list[Any], rejected: list[Any], prompt: str | None
) -> tuple[Any, Any, Any, str | None]:
    """The messages that both have in front, what follows on each side, and what is wrong."""
    if chosen == rejected:
        return [], [], [], "the same answer as chosen and as rejected"
    pairs = zip(chosen, rejected, strict=False)
    length = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
    length = min(len(chosen), len(rejected)) if length is None else length
    shared, answers = chosen[:length], (chosen[length:], rejected[length:])
    if not shared and prompt is not None:
        return [], [], [], "a prompt that is a text, beside answers that are messages without it"
    if not shared:
        return [], [], [], "no prompt, neither in a column nor as messages that both answers have"
    if not all(answers):
        return [], [], [], "an answer that ends where the other one goes on"
    if prompt is not None and not any(message["content"] == prompt for message in shared):
        return [], [], [], "a prompt that is a text and not what comes before the answers"
    return shared, *answers, None
