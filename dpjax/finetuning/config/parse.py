"""Nested mappings as a tree of dataclasses: names and types are checked."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from dpjax.basics.option_checks import did_you_mean
from dpjax.data import DataSource


def build_options(cls: type, options: Mapping[str, Any], prefix: str = "") -> Any:
    """Makes a dataclass of nested mappings, and checks the type of each value.

    Args:
        cls: the dataclass.
        options: its fields by name; a group of options as a mapping or as its dataclass.
        prefix: dotted name of the group that the options are in, for messages.

    Raises:
        TypeError: an option is unknown or missing, or its value has the wrong type.

    Example:
        >>> build_options(DataSource, {"path": "train.csv", "text_column": "message"}).text_column
        'message'
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in options:
        if name not in fields:
            valid = [prefix + field for field in fields]
            raise TypeError(
                f"unknown option {prefix}{name}."
                + (did_you_mean(prefix + name, valid) or f" Known are {', '.join(valid)}.")
            )
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [prefix + name for name in required if name not in options]
    if missing:
        raise TypeError(f"missing option {', '.join(missing)}")
    hints = typing.get_type_hints(cls)
    return cls(
        **{name: _convert(hints[name], value, prefix + name) for name, value in options.items()}
    )


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if hint is DataSource and isinstance(value, (str, os.PathLike)):
            return DataSource(path=os.fspath(value))
        if isinstance(value, Mapping):
            return build_options(hint, value, f"{name}.")
        raise TypeError(f"{name} must be a {hint.__name__} or a mapping, got {value!r}")
    if isinstance(value, list):
        value = tuple(value)
    if not _matches(hint, value):
        message = f"{name} must be {_describe(hint)}, got {value!r}."
        if typing.get_origin(hint) is Literal:
            message += did_you_mean(value, typing.get_args(hint))
        raise TypeError(message)
    return value


def _matches(hint: Any, value: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in args
    if origin in (types.UnionType, typing.Union):
        return any(_matches(arg, value) for arg in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(_matches(args[0], item) for item in value)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float))
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)
