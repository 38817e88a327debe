"""The texts of records: what zlib compresses, and the same records in lower case."""

from __future__ import annotations

from dpjax.data import Completions, LanguageRecords, Texts


def target_texts(records: LanguageRecords) -> list[str]:
    """Returns the part of every record that carries loss, as text.

    Texts are taken whole; of prompts and completions the completion; of conversations what the
    assistant says. Messages are joined by line breaks.

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
        "\n".join(m["content"] for m in conversation if m["role"] == "assistant")
        for conversation in records.conversations
    ]


def lowercase_records(records: LanguageRecords) -> LanguageRecords:
    """Returns the same records in lower case, prompts included; roles stay as they are.

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
        )
    return type(records)([_lowered_messages(messages) for messages in records.conversations])


def _content(text_or_messages: str | list[dict[str, str]]) -> str:
    if isinstance(text_or_messages, str):
        return text_or_messages
    return "\n".join(message["content"] for message in text_or_messages)


def _lowered(text_or_messages: str | list[dict[str, str]]) -> str | list[dict[str, str]]:
    if isinstance(text_or_messages, str):
        return text_or_messages.lower()
    return _lowered_messages(text_or_messages)


def _lowered_messages(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    return [message | {"content": message["content"].lower()} for message in messages]
