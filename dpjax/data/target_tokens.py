"""Records of a causal language model as token ids, and which of them are to be learnt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dpjax.data.chat import render, tokenize_marked
from dpjax.data.language_records import Completions, Content, Conversations, LanguageRecords, Texts
from dpjax.data.tokenizing import TEXTS_AT_ONCE, leading_special_tokens, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TargetTokens = tuple[list[int], np.ndarray]
"""Token ids, and for each, as bool, whether it is a target. The first never is: nothing before it
predicts it."""


def target_tokens(
    records: LanguageRecords, tokenizer: PreTrainedTokenizerBase, separator: str
) -> Iterator[TargetTokens]:
    """The tokens of every record, whole.

    Args:
        separator: ends every prompt that is a text.

    Raises:
        ValueError: the chat template refuses the messages of a record.
    """
    for start in range(0, len(records), TEXTS_AT_ONCE):
        rows = slice(start, start + TEXTS_AT_ONCE)
        if isinstance(records, Texts):
            yield from _of_texts(records.texts[rows], tokenizer)
        elif isinstance(records, Completions):
            pairs = zip(records.prompts[rows], records.completions[rows], strict=True)
            texts = [
                _as_texts(*pair, tokenizer, separator, number)
                for number, pair in enumerate(pairs, start + 1)
            ]
            yield from _of_completions(texts, tokenizer)
        else:
            yield from _of_conversations(records, rows, tokenizer)


def prompt_tokens(
    prompts: list[Content], tokenizer: PreTrainedTokenizerBase, separator: str, first_number: int
) -> list[list[int]]:
    """The tokens of every prompt, the same as those that precede the completion in training.

    Args:
        separator: ends every prompt that is a text.
        first_number: of the first prompt, for errors.

    Raises:
        ValueError: the chat template refuses the messages of a prompt.
    """
    opening = leading_special_tokens(tokenizer)
    texts = [
        prompt + separator
        if isinstance(prompt, str)
        else render(tokenizer, prompt, number, add_generation_prompt=True)
        for number, prompt in enumerate(prompts, first_number)
    ]
    return [
        # A template writes the opening token itself.
        opening + ids if isinstance(prompt, str) else ids
        for prompt, ids in zip(prompts, tokenize(tokenizer, texts), strict=True)
    ]


def _of_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[TargetTokens]:
    opening = leading_special_tokens(tokenizer)
    for ids in tokenize(tokenizer, texts):
        whole = opening + _ended(ids, tokenizer)
        yield whole, _from(len(opening), whole)


def _of_completions(
    texts: list[tuple[str, str, bool]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[TargetTokens]:
    opening = leading_special_tokens(tokenizer)
    prompts = tokenize(tokenizer, [prompt for prompt, _, _ in texts])
    joined = tokenize(tokenizer, [prompt + completion for prompt, completion, _ in texts])
    for (_, completion, is_plain), before, ids in zip(texts, prompts, joined, strict=True):
        if ids[: len(before)] != before:
            # A token would reach over the boundary.
            ids = before + tokenize(tokenizer, [completion])[0]
        if is_plain:
            before, ids = opening + before, opening + _ended(ids, tokenizer)
        yield ids, _from(len(before), ids)


def _as_texts(
    prompt: Content,
    completion: Content,
    tokenizer: PreTrainedTokenizerBase,
    separator: str,
    number: int,
) -> tuple[str, str, bool]:
    """Prompt and completion as texts, and whether they were: a template adds its own tokens."""
    if isinstance(prompt, str):
        return prompt + separator, completion, True
    before = render(tokenizer, prompt, number, add_generation_prompt=True)
    whole = render(tokenizer, prompt + completion, number)
    if not whole.startswith(before):
        raise ValueError(
            f"record {number}: the chat template writes the prompt in another way once an answer "
            "follows, so where the completion begins cannot be told; write the record as messages "
            "and mark the assistant's part in the template, or as plain texts"
        )
    return before, whole[len(before) :], False


def _of_conversations(
    records: Conversations, rows: slice, tokenizer: PreTrainedTokenizerBase
) -> Iterator[TargetTokens]:
    for number, messages in enumerate(records.conversations[rows], rows.start + 1):
        ids, marked = tokenize_marked(tokenizer, messages, number)
        yield ids, _from(0, ids) & np.array(marked, np.bool_)


def _ended(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A text that already ends a sequence is not ended twice."""
    end = tokenizer.eos_token_id
    return ids if ids[-1:] == [end] else [*ids, end]


def _from(first: int, ids: list[int]) -> np.ndarray:
    return np.arange(len(ids)) >= max(first, 1)
