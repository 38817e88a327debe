"""Which characters of a conversation are the assistant's, and which tokens.

A template with `{% generation %}` marks says so itself. Of another one the beginnings of the
conversation are rendered: what follows the invitation to answer, up to where the text with the
answer ends, is the assistant's. It must hold for the very text; otherwise the record is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dpjax.data.encode.chat_template import ChatTemplate, RecordError, Span
from dpjax.data.records.messages import Message, is_learnt, message_text
from dpjax.data.records.tools import Tools

# Private use: hardly ever in a text.
_RARE_CHARACTERS = range(0xE000, 0x110000)
_THINKING_ENDS = "</think>"


def answer_spans(
    template: ChatTemplate, messages: list[Message], number: int, tools: Tools
) -> tuple[str, list[Span]]:
    """The conversation as one text, and the characters of the messages that are to be learnt.

    Args:
        template: renders messages.
        messages: the conversation.
        number: of the record, for errors.
        tools: of the record.

    Raises:
        RecordError: the template refuses the messages, does not write the tools, or what is the
            assistant's cannot be told.
        ValueError: the template is not one.
    """
    template.check_tools(messages, number, tools)
    if template.is_marked:
        text, spans = template.render_marked(messages, number, tools=tools)
        if all(is_learnt(said) for said in messages if said["role"] == "assistant"):
            return text, spans
        parts = _marked_parts(template, messages, number, tools, spans)
        return text, [span for place in _places(messages) for span in parts[place]]
    text = template.render(messages, number, tools=tools)
    conversation = _Conversation(template, messages, number, tools, text)
    return text, [conversation.answer(place) for place in _places(messages)]


def unclear(number: int, place: int, reason: str) -> RecordError:
    """The error that refuses a record of which an answer cannot be told from the rest.

    Args:
        number: of the record, from 1.
        place: of the answer among the messages, from 0.
        reason: what the chat template does.
    """
    return RecordError(
        f"record {number}: the chat template {reason}, so which tokens are the assistant's in "
        f"message {place + 1} cannot be told; give that message weight 0, write the record as a "
        "prompt and a completion, or put {% generation %} and {% endgeneration %} around the "
        "assistant's part in tokenizer.chat_template"
    )


def _places(messages: list[Message]) -> list[int]:
    return [place for place, message in enumerate(messages) if is_learnt(message)]


def _marked_parts(
    template: ChatTemplate,
    messages: list[Message],
    number: int,
    tools: Tools,
    spans: list[Span],
) -> dict[int, list[Span]]:
    """Which of the marked spans are of which message, where only the assistant's have any.

    Marks stand in the order of the messages. How many a message adds is seen by rendering the
    conversation before it and up to it.
    """
    parts: dict[int, list[Span]] = {}
    seen = 0
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = (
            len(template.render_marked(messages[:count], number, tools=tools)[1]) if count else 0
            for count in (place, place + 1)
        )
        if before != seen:
            raise unclear(number, place, "marks other parts once a message follows")
        parts[place], seen = spans[before:after], after
    if seen != len(spans):
        raise unclear(number, max(parts), "marks other parts once a message follows")
    return parts


class _Conversation:
    """One conversation and its text, of which the beginnings are rendered too."""

    def __init__(
        self,
        template: ChatTemplate,
        messages: list[Message],
        number: int,
        tools: Tools,
        text: str,
    ) -> None:
        self._template, self._messages, self._number = template, messages, number
        self._tools, self._text = tools, text

    def answer(self, place: int) -> Span:
        """The characters that follow the invitation to answer and belong to a message."""
        if place == 0:
            raise unclear(self._number, place, "is not given a message before the first answer")
        invited = self._beginning(place, place, add_generation_prompt=True)
        start, end = self._start(place, invited), self._end(place, invited)
        if end < start:
            raise unclear(self._number, place, "ends the answer before its beginning")
        return start, end

    def _beginning(self, count: int, place: int, *, add_generation_prompt: bool = False) -> str:
        """The text of the first `count` messages, for the answer at `place`."""
        try:
            return self._template.render(
                self._messages[:count],
                self._number,
                tools=self._tools,
                add_generation_prompt=add_generation_prompt,
            )
        except RecordError:
            # It accepts the whole conversation.
            raise unclear(
                self._number, place, "refuses the messages before or up to an answer alone"
            ) from None

    def _start(self, place: int, invited: str) -> int:
        if self._text.startswith(invited):
            return len(invited)
        # Some invitations open <think>, which is left out of answers without one.
        content = self._content(self._text, len(self._messages), place)
        if content is None or not invited.startswith(self._text[: content[0]]):
            raise unclear(
                self._number, place, "writes what is before an answer in another way to invite it"
            )
        return content[0]

    def _end(self, place: int, invited: str) -> int:
        count = place + 1
        if count == len(self._messages):
            return len(self._text)
        closed = self._beginning(count, place)
        if self._text.startswith(closed):
            return len(closed)
        # The last answer may be written with its reasoning, an earlier one without.
        whole = self._content(self._text, len(self._messages), place)
        alone = self._content(closed, count, place)
        if whole is not None and alone is not None:
            for ending in self._endings(closed[alone[1] :], place, invited):
                if self._text.startswith(ending, whole[1]):
                    return whole[1] + len(ending)
        raise unclear(
            self._number, place, "ends an answer in another way once a message follows it"
        )

    def _endings(self, written: str, place: int, invited: str) -> Iterator[str]:
        """What is written after a last answer, with and without what closes every text."""
        yield written
        closing = self._template.closing
        before = self._beginning(place, place)
        is_closed = closing and before.endswith(closing) and not invited.startswith(before)
        if is_closed and invited.startswith(before.removesuffix(closing)):
            yield written.removesuffix(closing)

    def _content(self, text: str, count: int, place: int) -> Span | None:
        """Where the content of a message stands in the text of the first `count`, if that is sure.

        Rare characters around the content are found in the text; without them it must be the same.
        Templates that drop the reasoning of an answer keep what follows it, and some trim that.
        """
        content = message_text(self._messages[place])
        first, last = self._unused(text + content)
        kept = content.rpartition(_THINKING_ENDS)[2]
        end = len(content.rstrip())
        for length in dict.fromkeys((len(kept), len(kept.lstrip()))):
            begin = len(content) - length
            if not kept.strip():
                break
            marked = f"{content[:begin]}{first}{content[begin:end]}{last}{content[end:]}"
            messages = self._messages[:count]
            messages[place] = messages[place] | {"content": marked}
            written = self._template.render(messages, self._number, tools=self._tools)
            is_once = (written.count(first), written.count(last)) == (1, 1)
            start, after = written.find(first), written.find(last)
            if is_once and start < after and written.replace(first, "").replace(last, "") == text:
                return start, after - 1
        return None

    @staticmethod
    def _unused(text: str) -> tuple[str, str]:
        unused = (mark for mark in map(chr, _RARE_CHARACTERS) if mark not in text)
        return next(unused), next(unused)


def tokens_in_spans(text: str, spans: Sequence[Span], offsets: Sequence[Span]) -> np.ndarray:
    """For each token, as bool, whether it is part of a span and of nothing outside but blanks.

    A token that holds somebody else's words beside those in a span is not part of it. Blanks make
    no difference: tokenizers that join a space to the word after it may or may not count it among
    the characters of the token.

    Args:
        text: what was tokenised.
        spans: of characters of `text`; they may touch, overlap and be empty.
        offsets: the characters of each token, in order. A token of none stands for the characters
            since the token before it: tokenizers that do not count blanks write those so.
    """
    inside = np.zeros(len(text), np.bool_)
    for start, end in spans:
        inside[start:end] = True
    blank = np.fromiter(map(str.isspace, text), np.bool_, len(text))
    starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    before = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])
    starts = np.where(starts == ends, np.minimum(before, starts), starts)
    is_answer: np.ndarray = _count(inside, starts, ends) > 0
    is_answer &= _count(~inside & ~blank, starts, ends) == 0
    return is_answer


def _count(characters: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """How many of `characters`, a mask, each token has."""
    up_to: np.ndarray = np.concatenate([[0], np.cumsum(characters)])
    count: np.ndarray = up_to[ends] - up_to[starts]
    return count
