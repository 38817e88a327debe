"""Prompts as arrays, for generation."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from dpjax.data.encode.base import EncodedRecords
from dpjax.data.encode.chat_template import ChatTemplate, RecordError, check_chat_template
from dpjax.data.encode.padding import pad_tokens
from dpjax.data.encode.target_tokens import check_separator, prompt_tokens
from dpjax.data.encode.tokenizing import check_max_length, check_tokenizer
from dpjax.data.records.language import Completions, Content, Conversations, LanguageRecords
from dpjax.data.records.messages import is_learnt
from dpjax.data.records.tools import Tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedPrompts(EncodedRecords):
    """N prompts, padded on the left: the last column holds the last token of each prompt.

    T is the length of the longest prompt, at most max_length.

    Example:
        >>> ids = np.array([[5, 6, 7], [0, 0, 5]], np.int32)
        >>> EncodedPrompts(ids, ids != 0, truncated=np.zeros(2, bool)).trimmed(2).input_ids.tolist()
        [[6, 7], [0, 5]]
    """

    padding_side: ClassVar[Literal["left", "right"]] = "left"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What a record asks, and what it answers.

    Attributes:
        number: of the record, from 1.
        content: a text or messages; never empty.
        answer: likewise; messages may be none.
        tools: of the record.

    Example:
        >>> Prompt(number=1, content="Is it open?", answer="Until six.").answer
        'Until six.'
    """

    number: int
    content: Content
    answer: Content
    tools: Tools = dataclasses.field(default_factory=list, kw_only=True, repr=False)


def encode_prompts(
    records: LanguageRecords | list[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    separator: str = "",
    today: datetime.datetime | None = None,
) -> EncodedPrompts:
    """Tokenises what a model is to answer, as `encode_language` tokenises it before the answer.

    Of prompts and completions that is the prompt, of conversations all before the assistant's last
    message that is learnt, or everything if the assistant says nothing; messages end with the chat
    template's invitation to answer. `separator` and `today` must be those of training. Of a longer
    prompt the last `max_length` tokens are kept.

    Args:
        records: each with a prompt; or some of the prompts that `find_prompts` finds in records.
        tokenizer: a fast one.
        max_length: the most tokens of a prompt that are kept.
        separator: as for `encode_language`.
        today: as for `encode_language`.

    Raises:
        TypeError: the tokenizer is not a fast one, or the records are texts, which have no prompt.
        ValueError: `max_length` is below 8 or above what the tokenizer says its model takes,
            messages meet a tokenizer without a chat template, a conversation begins with the
            assistant's last message, the template refuses a prompt or takes too much for it, a
            prompt has no tokens, or a separator is given for messages.

    Example:
        >>> from transformers import BertTokenizer
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film"]
        >>> tokenizer = BertTokenizer(dict(zip(words, range(8))))
        >>> records = Completions(["a fine", "a"], ["film", "film"])
        >>> encode_prompts(records, tokenizer, max_length=8).input_ids.tolist()
        [[2, 5, 6], [0, 2, 5]]
    """
    check_tokenizer(tokenizer)
    check_max_length(max_length, tokenizer)
    if isinstance(records, list):
        prompts = records
    else:
        prompts = _one_each(records)
        check_separator(separator, records)
    if any(not isinstance(prompt.content, str) for prompt in prompts):
        check_chat_template(tokenizer)
    ids: list[np.ndarray] = []
    truncated = np.zeros(len(prompts), np.bool_)
    with ChatTemplate(tokenizer, today) as template:
        contents = ((prompt.number, prompt.content, prompt.tools) for prompt in prompts)
        for row, tokens in enumerate(prompt_tokens(contents, tokenizer, template, separator)):
            ids.append(np.array(tokens[-max_length:], np.int32))
            truncated[row] = len(tokens) > max_length
    return EncodedPrompts(*pad_tokens(ids, tokenizer, "left"), truncated)


def find_prompts(records: LanguageRecords) -> list[Prompt]:
    """The prompts of the records, in their order.

    A conversation that begins with the assistant's last message has none.

    Raises:
        TypeError: the records are texts.

    Example:
        >>> find_prompts(Completions(["Is it open?"], ["Until six."]))
        [Prompt(number=1, content='Is it open?', answer='Until six.')]
    """
    if isinstance(records, Completions):
        pairs = enumerate(zip(records.prompts, records.completions, strict=True), start=1)
        return [Prompt(number, *pair, tools=records.tools_of(number - 1)) for number, pair in pairs]
    if isinstance(records, Conversations):
        return list(_before_last_answers(records))
    raise TypeError(f"{type(records).__name__} have no prompts; give Completions or Conversations")


def _one_each(records: LanguageRecords) -> list[Prompt]:
    prompts = find_prompts(records)
    if len(prompts) < len(records):
        present = {prompt.number for prompt in prompts}
        number = next(number for number in range(1, len(records) + 1) if number not in present)
        raise RecordError(
            f"the conversation of record {number} begins with the assistant's last message: there "
            "is nothing to answer"
        )
    return prompts


def _before_last_answers(records: Conversations) -> Iterator[Prompt]:
    for number, messages in enumerate(records.conversations, start=1):
        learnt = [place for place, said in enumerate(messages) if is_learnt(said)]
        answers = [place for place, said in enumerate(messages) if said["role"] == "assistant"]
        last = (learnt or answers or [len(messages)])[-1]
        if messages[:last]:
            tools = records.tools_of(number - 1)
            yield Prompt(number, messages[:last], messages[last : last + 1], tools=tools)
