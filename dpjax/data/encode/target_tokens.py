"""Records of a causal language model as token ids, and which of them are to be learnt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dpjax.data.encode.answer_tokens import answer_spans, tokens_in_spans, unclear
from dpjax.data.encode.chat_template import ChatTemplate, RecordError, Span
from dpjax.data.encode.tokenizing import (
    in_batches,
    leading_special_tokens,
    opened,
    tokenize,
    tokenize_with_offsets,
)
from dpjax.data.records.language import Completions, Content, Conversations, LanguageRecords, Texts
from dpjax.data.records.messages import Message, is_learnt
from dpjax.data.records.tools import Tools
from dpjax.data.unicode import has_half_surrogate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TargetTokens = tuple[list[int], np.ndarray]
"""Token ids, and for each, as bool, whether it is a target. The first never is: nothing before it
predicts it."""


def check_separator(separator: str, records: LanguageRecords) -> None:
    """Refuses a separator where there is no prompt that is a text, or that is not a text itself.

    Raises:
        ValueError: saying what the records are.
    """
    if has_half_surrogate(separator):
        raise ValueError(f"separator must be valid Unicode, got {separator!r}")
    if separator and not (isinstance(records, Completions) and records.are_texts):
        made_of = "texts without a prompt" if isinstance(records, Texts) else "messages"
        raise ValueError(
            f"separator={separator!r} stands between a prompt and a completion that are texts, but "
            f"the records are {made_of}; leave it out"
        )


def target_tokens(
    records: LanguageRecords,
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate,
    separator: str,
) -> Iterator[TargetTokens]:
    """The tokens of every record, whole.

    Args:
        records: texts, prompts with completions, or conversations.
        tokenizer: a fast one.
        template: renders conversations.
        separator: ends every prompt that is a text.

    Raises:
        ValueError: the chat template refuses the messages of a record.
    """
    if isinstance(records, Texts):
        return _encode_texts(records.texts, tokenizer)
    if isinstance(records, Completions):
        return _encode_completions(_as_texts(records, template, separator), tokenizer)
    return _encode_conversations(records, tokenizer, template)


def prompt_tokens(
    prompts: Iterable[tuple[int, Content, Tools]],
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate,
    separator: str,
) -> Iterator[list[int]]:
    """The tokens of every prompt, the same as those that precede the completion in training.

    Args:
        prompts: each with the number of its record, for errors, and the record's tools.
        tokenizer: a fast one.
        template: renders prompts that are messages.
        separator: ends every prompt that is a text.

    Raises:
        RecordError: the chat template refuses the messages of a prompt, or it has no tokens.
        ValueError: the chat template is not one.
    """
    opening = leading_special_tokens(tokenizer)
    texts = (
        (number, prompt + separator, True)
        if isinstance(prompt, str)
        else (
            number,
            template.render(prompt, number, tools=tools, add_generation_prompt=True),
            False,
        )
        for number, prompt, tools in prompts
    )
    for some in in_batches(texts, lambda text: len(text[1])):
        tokens = tokenize(tokenizer, [text for _, text, _ in some])
        for (number, _, is_plain), ids in zip(some, tokens, strict=True):
            # A template writes the opening token itself.
            whole = opened(ids, opening) if is_plain else ids
            if not whole:
                raise RecordError(
                    f"the prompt of record {number} has no token: the tokenizer drops all of it"
                )
            yield whole


def _encode_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[TargetTokens]:
    opening = leading_special_tokens(tokenizer)
    for some in in_batches(texts, len):
        for ids in tokenize(tokenizer, some):
            whole = opened(ids, opening) + _closing(ids, tokenizer)
            yield whole, _from(len(opening), whole)


def _encode_completions(
    texts: Iterable[tuple[str, str, bool]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[TargetTokens]:
    opening = leading_special_tokens(tokenizer)
    for some in in_batches(texts, lambda text: len(text[0]) + len(text[1])):
        prompts = tokenize(tokenizer, [prompt for prompt, _, _ in some])
        joined = tokenize(tokenizer, [prompt + completion for prompt, completion, _ in some])
        for (_, completion, is_plain), before, ids in zip(some, prompts, joined, strict=True):
            if ids[: len(before)] != before:
                # A token would reach over the boundary.
                ids = before + tokenize(tokenizer, [completion])[0]
            if is_plain:
                answer = ids[len(before) :] + _closing(ids, tokenizer)
                before = opened(before, opening)
                ids = before + answer
            yield ids, _from(len(before), ids)


def _as_texts(
    records: Completions, template: ChatTemplate, separator: str
) -> Iterator[tuple[str, str, bool]]:
    """Prompts and completions as texts, and whether they were: a template adds its own tokens."""
    pairs = zip(records.prompts, records.completions, strict=True)
    for number, (prompt, completion) in enumerate(pairs, start=1):
        if isinstance(prompt, str) and isinstance(completion, str):
            yield prompt + separator, completion, True
            continue
        if isinstance(prompt, str) or isinstance(completion, str):
            raise RecordError(
                f"record {number}: of prompt and completion one is a text, the other messages; "
                "write both as texts or both as messages"
            )
        tools = records.tools_of(number - 1)
        template.check_tools(prompt + completion, number, tools)
        before = template.render(prompt, number, tools=tools, add_generation_prompt=True)
        whole = template.render(prompt + completion, number, tools=tools)
        if not whole.startswith(before):
            raise RecordError(
                f"record {number}: the chat template writes the prompt in another way once an "
                "answer follows, so where the answer begins cannot be told; write the record as "
                "plain texts, or one with one answer as a conversation in a column of messages"
            )
        yield before, whole[len(before) :], False


def _encode_conversations(
    records: Conversations, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate
) -> Iterator[TargetTokens]:
    encode = _encode_marked if template.is_marked else _encode_prefixes
    rendered = (
        _Rendered(
            messages,
            number,
            *answer_spans(template, messages, number, records.tools_of(number - 1)),
        )
        for number, messages in enumerate(records.conversations, start=1)
    )
    # Of a template without marks each beginning is tokenised too.
    for some in in_batches(rendered, lambda one: len(one.text) * (1 + 2 * len(one.spans))):
        yield from encode(some, tokenizer)


class _Rendered(NamedTuple):
    """A conversation as text, with the characters that are to be learnt."""

    messages: list[Message]
    number: int
    text: str
    spans: list[Span]


def _encode_marked(
    some: list[_Rendered], tokenizer: PreTrainedTokenizerBase
) -> Iterator[TargetTokens]:
    tokens = tokenize_with_offsets(tokenizer, [one.text for one in some])
    for one, (ids, offsets) in zip(some, tokens, strict=True):
        yield ids, _from(0, ids) & tokens_in_spans(one.text, one.spans, offsets)


def _encode_prefixes(
    some: list[_Rendered], tokenizer: PreTrainedTokenizerBase
) -> Iterator[TargetTokens]:
    edges = ((one.text, (len(one.text), *chain(*one.spans))) for one in some)
    listed = list(dict.fromkeys(text[:at] for text, places in edges for at in places))
    tokens = dict(zip(listed, tokenize(tokenizer, listed), strict=True))
    for one in some:
        ids = tokens[one.text]
        counts = np.zeros(len(ids), np.bool_)
        learnt = (place for place, message in enumerate(one.messages) if is_learnt(message))
        for place, (start, end) in zip(learnt, one.spans, strict=True):
            before, until = tokens[one.text[:start]], tokens[one.text[:end]]
            if ids[: len(before)] != before or ids[: len(until)] != until:
                raise unclear(one.number, place, "lets a token reach over the edge of the answer")
            counts[len(before) : len(until)] = True
        yield ids, _from(0, ids) & counts


def _closing(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The end-of-sequence token, unless a text's own tokens end with it already."""
    end = tokenizer.eos_token_id
    return [] if ids[-1:] == [end] else [end]


def _from(first: int, ids: list[int]) -> np.ndarray:
    return np.arange(len(ids)) >= max(first, 1)
