"""The texts of records: what zlib compresses, and the same records in lower case."""

from __future__ import annotations

from dpjax.data import Completions, LanguageRecords, Message, Texts, is_learnt, message_text

_SAID = ("content", "reasoning_content")


def target_texts(records: LanguageRecords) -> list[str]:
    """Returns the part of every record that carries loss, as text.

    Texts are taken whole; of prompts and completions the completion; of conversations the
    contents that are learnt. Messages are joined by line breaks.

    Args:
        records: N texts, prompts with completions, or conversations.

    Returns:
        N strings. They are whole also where encoding cuts records to a length.

    Example:
        >>> target_texts(Completions(["Name?"], ["Ada"]))
        ['Ada']
    """
    if isinstance(records, Texts):
        return list(records.texts)
    if isinstance(records, Completions):
        return [_content(completion) for completion in records.completions]
    return [
        "\n".join(map(message_text, filter(is_learnt, conversation)))
        for conversation in records.conversations
    ]


def lowercase_records(records: LanguageRecords) -> LanguageRecords:
    """Returns the same records in lower case, prompts included; roles, tools and their calls stay.

    Args:
        records: N texts, prompts with completions, or conversations.

    Example:
        >>> lowercase_records(Texts(["Ada LOVELACE"]))
        Texts(texts=['ada lovelace'])
    """
    if isinstance(records, Texts):
        return Texts([text.lower() for text in records.texts])
    if isinstance(records, Completions):
        return Completions(
            [_lowered(prompt) for prompt in records.prompts],
            [_lowered(completion) for completion in records.completions],
            tools=records.tools,
        )
    conversations = [_lowered_messages(messages) for messages in records.conversations]
    return type(records)(conversations, tools=records.tools)


def _content(text_or_messages: str | list[Message]) -> str:
    if isinstance(text_or_messages, str):
        return text_or_messages
    return "\n".join(map(message_text, text_or_messages))


def _lowered(text_or_messages: str | list[Message]) -> str | list[Message]:
    if isinstance(text_or_messages, str):
        return text_or_messages.lower()
    return _lowered_messages(text_or_messages)


def _lowered_messages(messages: list[Message]) -> list[Message]:
    return [
        message | {key: message[key].lower() for key in _SAID if message.get(key)}
        for message in messages
    ]
