"""Definitions of functions that an assistant may call, as a chat template is given them."""

from __future__ import annotations

import json
from typing import Any

from dpjax.data.read.json_lines import RepeatedNameError, unique_names
from dpjax.data.unicode import has_half_surrogate

Tools = list[dict[str, Any]]
"""Definitions of functions, in JSON's types; the template says which keys it needs."""


def check_tools(value: object, *, has_messages: bool) -> tuple[Tools, str | None]:
    """Tools must be a list of objects, or JSON of one; only messages can have them.

    Args:
        value: as the source has it. Nothing, an empty list and a blank string are no tools.
        has_messages: whether the record is made of messages, which a chat template writes.

    Returns:
        The tools, and what is wrong with them.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value, object_pairs_hook=unique_names)
        except (ValueError, RecursionError, RepeatedNameError):
            return [], "tools in a string that is not JSON of a list of objects"
    if not value and (value is None or isinstance(value, (str, list))):
        return [], None
    if not isinstance(value, list) or not all(isinstance(tool, dict) and tool for tool in value):
        return [], "tools that are not a list of objects, nor a string with JSON of one"
    try:
        written = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return [], "tools with something that JSON cannot hold"
    if has_half_surrogate(written):
        return [], "tools with half a surrogate pair (not valid Unicode)"
    if not has_messages:
        return [], "tools beside texts: only messages have a chat template that writes them"
    return value, None
