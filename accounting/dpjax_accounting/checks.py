"""Checks of numbers and names at the boundary, with messages that say what to do."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

# Larger ones count nothing, and may be too large for a float.
_LARGEST_INTEGER = 2**63 - 1


def checked_real(name: str, value: object) -> float:
    """Returns `value` as a finite Python float; TypeError or ValueError if it is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number; got {value!r} ({type(value).__name__}).")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite; got {number}.")
    return number


def checked_positive(name: str, value: object) -> float:
    """Returns `value` as a finite Python float above zero, or raises."""
    number = checked_real(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be greater than 0; got {number:g}.")
    return number


def checked_integer(name: str, value: object, *, minimum: int) -> int:
    """Returns `value` as a Python int from `minimum` to 2⁶³ − 1, or raises."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer; got {value!r} ({type(value).__name__}).")
    number = int(value)
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}; got {number}.")
    if number > _LARGEST_INTEGER:
        raise ValueError(f"{name} must be at most {_LARGEST_INTEGER}; got a larger number.")
    return number


def checked_delta(value: object) -> float:
    """Returns `value` as a Python float strictly between 0 and 1, or raises."""
    delta = checked_real("delta", value)
    if not 0 < delta < 1:
        raise ValueError(
            f"delta must lie strictly between 0 and 1; got {delta:g}. Choose it well below"
            " 1 / (number of units), such as 1e-5."
        )
    return delta


def checked_name(
    name: str, value: object, supported: Iterable[str], refused: Mapping[str, str]
) -> str:
    """Returns `value` if it is supported; otherwise raises with the reason."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string; got {value!r} ({type(value).__name__}).")
    supported = tuple(supported)
    if value in supported:
        return value
    listed = f"Supported: {', '.join(map(repr, supported))}."
    if value in refused:
        raise ValueError(f"{name}={value!r} is not supported: {refused[value]}. {listed}")
    raise ValueError(f"{name}={value!r} is not known.{nearest(value, supported)} {listed}")


def checked_batch_size(value: object, num_units: int) -> float:
    """Returns an expected batch size as a float above 0 and at most `num_units`, or raises."""
    size = checked_positive("expected_batch_size", value)
    _check_fits("expected_batch_size", size, num_units)
    return size


def _check_fits(name: str, size: float, num_units: int) -> None:
    """Raises where a batch is larger than the data."""
    if size > num_units:
        shown = size if isinstance(size, int) else f"{size:g}"
        raise ValueError(
            f"{name}={shown} is larger than the data, which has num_units={num_units}. Choose at"
            f" most {num_units}."
        )


_LARGEST_RECORDS_PER_USER = 1000


def checked_records_per_user(value: object) -> int:
    """Returns a number of records per user as an int from 1 to 1000, or raises."""
    number = checked_integer("records_per_user", value, minimum=1)
    if number > _LARGEST_RECORDS_PER_USER:
        raise ValueError(
            f"records_per_user={number} is above {_LARGEST_RECORDS_PER_USER}, for which no useful"
            " epsilon exists. Limit what each user contributes, or clip per user."
        )
    return number


# The least value of whole numbers, by the names that fields of mechanisms have.
_WHOLE = {
    "num_units": 1,
    "num_records": 1,
    "batch_size": 1,
    "largest_batch_size": 1,
    "batches_per_epoch": 1,
    "bands": 1,
    "num_steps": 0,
    "num_epochs": 0,
}
_ABOVE_ZERO = ("noise_multiplier", "gradient_noise_multiplier", "count_stddev", "column_norm")


def check_common_fields(mechanism: Any) -> None:
    """Checks the fields that mechanisms share by name, and turns their numbers into Python's.

    Args:
        mechanism: a frozen dataclass under construction, which says what its `unit` and
            `neighboring` may be; other fields than these are left alone.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range, or a name unknown or not supported.
    """
    # The first one says how many units or records there are, where batches are drawn from them.
    names = [field.name for field in dataclasses.fields(mechanism)]
    fields = {name: getattr(mechanism, name) for name in names}
    for name in mechanism.optional:
        if fields[name] is None:
            del fields[name]
    for name, value in fields.items():
        if name in _WHOLE:
            fields[name] = checked_integer(name, value, minimum=_WHOLE[name])
            if name == "batch_size" and "num_units" in fields:
                _check_fits(name, fields[name], fields["num_units"])
        elif name in _ABOVE_ZERO:
            fields[name] = checked_positive(name, value)
        elif name == "expected_batch_size":
            fields[name] = checked_batch_size(value, fields[names[0]])
        elif name == "records_per_user":
            fields[name] = checked_records_per_user(value)
        elif name == "unit":
            fields[name] = checked_name(name, value, mechanism.units, mechanism.refused_units)
        elif name == "neighboring":
            fields[name] = checked_name(
                name, value, mechanism.relations, mechanism.refused_relations
            )
    set_fields(mechanism, **fields)


def set_fields(instance: object, **values: object) -> None:
    """Replaces the fields of a frozen dataclass under construction by their checked values."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def nearest(value: str, valid: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the valid name nearest to `value`, or an empty string."""
    matches = difflib.get_close_matches(value, tuple(valid), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""
