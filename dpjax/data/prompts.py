"""Prompts as arrays, for generation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from dpjax.data.chat import check_chat_template
from dpjax.data.encoded import EncodedRecords
from dpjax.data.language_records import (
    Completions,
    Content,
    Conversations,
    LanguageRecords,
    check_separator,
)
from dpjax.data.messages import Message
from dpjax.data.padding import pad_rows, padding_id
from dpjax.data.target_tokens import prompt_tokens
from dpjax.data.tokenizing import TEXTS_AT_ONCE, check_max_length, check_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedPrompts(EncodedRecords):
    """N prompts, padded on the left to T tokens, the longest prompt's, at most max_length: the
    last column holds the last token of every prompt."""

    padding_side: ClassVar[Literal["left", "right"]] = "left"


def encode_prompts(
    records: LanguageRecords,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    separator: str = "",
) -> EncodedPrompts:
    """Tokenises what a model is to answer, as `encode_language` tokenises it before the answer.

    Of prompts and completions that is the prompt, of conversations all before the assistant's last
    message, or everything if the assistant says nothing; messages end with the chat template's
    invitation to answer. `separator` must be that of training. Of a longer prompt the last
    `max_length` tokens are kept.

    Raises:
        TypeError: the tokenizer is not a fast one, or the records are texts, which have no prompt.
        ValueError: `max_length` is below 8 or above what the tokenizer says its model takes,
            messages meet a tokenizer without a chat template, a conversation begins with the
            assistant's last message, or a separator is given for messages.
    """
    check_tokenizer(tokenizer)
    check_max_length(max_length, tokenizer)
    prompts = _prompts(records)
    check_separator(separator, records)
    if isinstance(records, Conversations) or not records.are_texts:
        check_chat_template(tokenizer)
    ids: list[np.ndarray] = []
    truncated = np.zeros(len(prompts), np.bool_)
    for start in range(0, len(prompts), TEXTS_AT_ONCE):
        some = prompts[start : start + TEXTS_AT_ONCE]
        for row, tokens in enumerate(prompt_tokens(some, tokenizer, separator, start + 1), start):
            ids.append(np.array(tokens[-max_length:], np.int32))
            truncated[row] = len(tokens) > max_length
    fill = padding_id(tokenizer.pad_token_id, tokenizer.eos_token_id)
    return EncodedPrompts(
        input_ids=pad_rows(ids, fill, "left", np.int32),
        attention_mask=pad_rows(
            [np.ones(len(row), np.bool_) for row in ids], False, "left", np.bool_
        ),
        truncated=truncated,
    )


def _prompts(records: LanguageRecords) -> list[Content]:
    if isinstance(records, Completions):
        return records.prompts
    if isinstance(records, Conversations):
        return [
            _before_last_answer(messages, number)
            for number, messages in enumerate(records.conversations, start=1)
        ]
    raise TypeError(f"{type(records).__name__} have no prompts; give Completions or Conversations")


def _before_last_answer(messages: list[Message], number: int) -> list[Message]:
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    before = messages[: answers[-1]] if answers else messages
    if not before:
        raise ValueError(
            f"the conversation of record {number} begins with the assistant's last message: there "
            "is nothing to answer"
        )
    return before
