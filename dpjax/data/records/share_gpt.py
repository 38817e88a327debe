"""Conversations as ShareGPT's files have them: objects with `from` and `value`."""

from __future__ import annotations

from dpjax.data.records.checks import Checked
from dpjax.data.records.messages import check_messages

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}
_NAMES = {"from": "role", "value": "content"}


def check_conversation(value: object, name: str) -> Checked:
    """Turns `from` and `value` into role and content, and checks the messages.

    Messages that have a role and content already stay as they are.
    """
    if not isinstance(value, list):
        return check_messages(value, name)
    messages = []
    for given in value:
        if not isinstance(given, dict) or not given.keys() & _NAMES.keys():
            messages.append(given)
            continue
        if given.keys() & set(_NAMES.values()):
            return [], f"a message in {name} with from or value beside role or content"
        speaker = given.get("from")
        if not isinstance(speaker, str) or speaker not in _ROLES:
            return [], f"a message in {name} whose from is none of {', '.join(_ROLES)}"
        messages.append({_NAMES.get(key, key): said for key, said in given.items()})
        messages[-1]["role"] = _ROLES[speaker]
    return check_messages(messages, name)
