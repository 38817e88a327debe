"""Messages of a conversation: what must be in them."""

from __future__ import annotations

from dpjax.data.records.checks import Checked
from dpjax.data.unicode import has_half_surrogate

Message = dict[str, str]
"""Who says what: the keys are `role` and `content`."""

_KEYS = ("role", "content")


def check_messages(value: object, name: str = "messages") -> Checked:
    """Messages must be a list of objects with a role and content, and nothing besides.

    Only what the system says may be empty. Further keys are refused unless they are null, as a
    Parquet file fills them in: what a template makes of them would be lost.
    """
    if value is None or value == []:
        return [], f"{name} missing or empty"
    if not isinstance(value, list):
        return [], f"{name} of type {type(value).__name__} instead of a list of messages"
    problem = next(filter(None, map(_problem, value)), None)
    if problem:
        return [], f"a message in {name} {problem}"
    return [{key: message[key] for key in _KEYS} for message in value], None


def _problem(message: object) -> str | None:
    if not isinstance(message, dict):
        return f"that is of type {type(message).__name__}, not an object with role and content"
    for key in _KEYS:
        if not isinstance(message.get(key), str):
            return f"whose {key} is missing or not a string"
    if any(value is not None for key, value in message.items() if key not in _KEYS):
        return "that has more than role and content (tool calls and the like are not supported)"
    if has_half_surrogate(message["role"] + message["content"]):
        return "with half a surrogate pair (not valid Unicode)"
    if not message["role"].strip():
        return "whose role is empty"
    if message["role"] != "system" and not message["content"].strip():
        return "whose content is empty"
    return None
