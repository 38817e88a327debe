"""JSON against a JSON Schema: the keywords that this package's schemas use, and no others."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from dpjax_accounting.checks import nearest

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_LIMITS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "minimum": (operator.ge, "at least"),
    "maximum": (operator.le, "at most"),
    "exclusiveMinimum": (operator.gt, "greater than"),
    "exclusiveMaximum": (operator.lt, "less than"),
}
_KNOWN = {"$schema", "title", "description", "type", "enum", "const", "properties", "required"}
_KNOWN |= {"additionalProperties", "items", "minItems", "minLength", "pattern", *_LIMITS}


def violations(value: Any, schema: Mapping[str, Any], where: str = "") -> list[str]:
    """Returns what is wrong with `value`, a sentence each; an empty list if it fits the schema.

    Args:
        value: as read from JSON.
        schema: JSON Schema, draft 2020-12, of which only some keywords are understood.
        where: the place of `value` in the whole, for the sentences.

    Raises:
        NotImplementedError: if the schema uses another keyword.
    """
    unknown = set(schema) - _KNOWN
    if unknown:
        raise NotImplementedError(f"JSON Schema keywords {sorted(unknown)} are not understood.")
    name = where if where else "the report"
    types = schema.get("type", list(_TYPES))
    types = [types] if isinstance(types, str) else types
    if not any(_is(value, type_name) for type_name in types):
        return [f"{name} must be {' or '.join(types)}; got {_shown(value)}."]
    if "const" in schema and (value != schema["const"] or isinstance(value, bool)):
        return [f"{name} must be {schema['const']!r}; got {_shown(value)}."]
    if "enum" in schema and value not in schema["enum"]:
        listed = ", ".join(map(repr, schema["enum"]))
        return [f"{name} must be one of {listed}; got {_shown(value)}."]
    if isinstance(value, dict):
        return _in_object(value, schema, where)
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            return [f"{name} must not be empty."]
        items = enumerate(value)
        parts = [violations(item, schema.get("items", {}), f"{where}[{i}]") for i, item in items]
        return [problem for part in parts for problem in part]
    if isinstance(value, str):
        return _in_string(value, schema, name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _in_number(value, schema, name)
    return []


def _in_object(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> list[str]:
    inside = f"{where}." if where else ""
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    required = schema.get("required", ())
    problems = [f"{inside}{key} is missing." for key in required if key not in value]
    for key, item in value.items():
        if key in properties:
            problems += violations(item, properties[key], inside + key)
        elif others is False:
            problems.append(f"{inside}{key} is unknown.{nearest(key, properties)}")
        elif isinstance(others, Mapping):
            problems += violations(item, others, inside + key)
    return problems


def _in_string(value: str, schema: Mapping[str, Any], name: str) -> list[str]:
    if len(value) < schema.get("minLength", 0):
        return [f"{name} must not be empty."]
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return [f"{name} must match {schema['pattern']}; got {_shown(value)}."]
    return []


def _in_number(value: float, schema: Mapping[str, Any], name: str) -> list[str]:
    return [
        f"{name} must be {words} {schema[keyword]:g}; got {value:g}."
        for keyword, (holds, words) in _LIMITS.items()
        # NaN, which Python's reader lets pass, compares false with every limit.
        if keyword in schema and not holds(value, schema[keyword])
    ]


def _is(value: Any, type_name: str) -> bool:
    if isinstance(value, bool):
        return type_name == "boolean"
    return isinstance(value, _TYPES[type_name])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
