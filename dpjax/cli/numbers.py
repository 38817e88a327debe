"""How the command line reads numbers: what is not one is said in plain words."""

from __future__ import annotations

import types
import typing
from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

NUMBERS = ConstructorRegistry()

_KINDS: dict[type, str] = {int: "a whole number", float: "a number"}


@NUMBERS.primitive_rule
def _read_number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Makes the rule for `int` and `float`, also where they may be None; None for other types."""
    members = set(typing.get_args(info.type)) if _is_union(info.type) else {info.type}
    is_optional = types.NoneType in members
    kinds = members - {types.NoneType}
    if len(kinds) != 1 or not kinds <= _KINDS.keys():
        return None
    (kind,) = kinds

    def read(texts: list[str]) -> Any:
        if is_optional and texts == ["None"]:
            return None
        try:
            return kind(texts[0])
        except ValueError:
            raise ValueError(f"it must be {_KINDS[kind]}, got {texts[0]!r}.") from None

    def is_instance(value: Any) -> bool:
        return (value is None and is_optional) or (
            isinstance(value, kind | int) and not isinstance(value, bool)
        )

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=read,
        is_instance=is_instance,
        str_from_instance=lambda value: [str(value)],
    )


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)
