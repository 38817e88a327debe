"""Messages of a conversation: what must be in them, and which of them are learnt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dpjax.data.read.columns import shorten
from dpjax.data.records.checks import Checked
from dpjax.data.unicode import has_half_surrogate

Message = dict[str, Any]
"""Who says what: `role` and `content`, which is text or, beside tool calls, None. Where the source
has them also `reasoning_content`, `tool_calls`, `tool_call_id`, `name` and `weight`."""

_TEXTS = ("reasoning_content", "tool_call_id", "name")
_KEYS = ("role", "content", *_TEXTS, "tool_calls", "weight")
_MAY_BE_EMPTY = ("system", "developer", "tool")


def message_text(message: Message) -> str:
    """The content of a message; empty where it only calls tools.

    Example:
        >>> message_text({"role": "assistant", "content": "Until six."})
        'Until six.'
    """
    return message["content"] or ""


def is_learnt(message: Message) -> bool:
    """Whether a message is to be learnt: the assistant's, by its weight.

    Without a weight it is learnt unless it calls tools.

    Example:
        >>> is_learnt({"role": "assistant", "content": "Until six.", "weight": 0})
        False
    """
    calls_tools = bool(message.get("tool_calls"))
    return message["role"] == "assistant" and bool(message.get("weight", not calls_tools))


def without_weight(message: Message) -> Message:
    """What was said: the weight says only what is learnt."""
    return {key: value for key, value in message.items() if key != "weight"}


def check_messages(value: object, name: str = "messages") -> Checked:
    """Messages must be a list of objects with a role and content, and little besides.

    Only what the system or a tool says may be empty, or what stands beside tool calls. Keys that
    are null, as a Parquet file fills them in, and empty lists of tool calls are left out. Content
    in text parts is joined. Unknown keys are refused: what a template makes of them would be lost.
    """
    if value is None or value == []:
        return [], f"{name} missing or empty"
    if not isinstance(value, list):
        return [], f"{name} of type {type(value).__name__} instead of a list of messages"
    messages = []
    for given in value:
        message, problem = _check_message(given)
        if problem:
            return [], f"a message in {name} {problem}"
        messages.append(message)
    return messages, None


def _check_message(given: object) -> Checked:
    if not isinstance(given, dict):
        return {}, f"that is of type {type(given).__name__}, not an object with role and content"
    message = {key: value for key, value in given.items() if value is not None}
    if message.get("tool_calls") == []:
        del message["tool_calls"]
    if isinstance(message.get("content"), list):
        content, problem = _join_parts(message["content"])
        if problem:
            return {}, problem
        message["content"] = content
    problem = next(_problems(message), None)
    if problem:
        return {}, problem
    if "tool_calls" in message:
        message["tool_calls"] = [_without_nulls(call) for call in message["tool_calls"]]
    if "weight" in message:
        message["weight"] = int(message["weight"])
    return {"role": message["role"], "content": message.get("content")} | message, None


def _problems(message: Message) -> Iterator[str]:
    if not isinstance(message.get("role"), str):
        yield "whose role is missing or not a string"
    if not isinstance(message.get("content"), str) and (
        "content" in message or "tool_calls" not in message
    ):
        yield "whose content is missing or not a string"
    unknown = sorted(message.keys() - set(_KEYS))
    if unknown:
        yield (
            f"with the key {shorten(unknown[0])}, and read are {', '.join(_KEYS[:-1])} and "
            f"{_KEYS[-1]}; take it out"
        )
    for key in _TEXTS:
        if not isinstance(message.get(key, ""), str):
            yield f"whose {key} is not a string"
    yield from _problems_with_calls(message)
    if not message["role"].strip():
        yield "whose role is empty"
    may_be_empty = message["role"] in _MAY_BE_EMPTY or "tool_calls" in message
    if not may_be_empty and not message["content"].strip():
        yield "whose content is empty"
    if "weight" in message and message["weight"] not in (0, 1):
        yield "whose weight is neither 0 nor 1"
    for key in ("tool_calls", "reasoning_content"):
        if key in message and message["role"] != "assistant":
            yield f"with {key}, but another role than assistant"
    if message.get("weight") and message["role"] != "assistant":
        yield "of weight 1, but another role than assistant: only the assistant's part is learnt"


def _problems_with_calls(message: Message) -> Iterator[str]:
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        yield "whose tool_calls are not a list of objects"
    try:
        written = json.dumps(message, ensure_ascii=False)
    except (TypeError, ValueError):
        yield "whose tool_calls hold something that JSON cannot hold"
    else:
        if has_half_surrogate(written):
            yield "with half a surrogate pair (not valid Unicode)"


def _join_parts(parts: list[object]) -> Checked:
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text":
            return "", "whose content has a part that is no text; only text is learnt"
        others = {key for key, value in part.items() if value is not None} - {"type", "text"}
        if others or not isinstance(part.get("text"), str):
            return "", "whose content has a text part with something other than its text"
        texts.append(part["text"])
    return "".join(texts), None


def _without_nulls(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call without keys that a Parquet file has filled in; its arguments stay as given."""
    return {key: value for key, value in call.items() if value is not None}
