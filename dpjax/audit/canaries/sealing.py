"""Commitments: hashes that fix a value now and show it only later."""

from __future__ import annotations

import hashlib
import json
from typing import Any

SALT_BYTES = 32


def canonical(value: Any) -> str:
    """Writes a JSON value in the one way that is hashed: sorted keys, no blanks, ASCII.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: it is no JSON value.

    Example:
        >>> canonical({"b": 1, "a": [True, None]})
        '{"a":[true,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(value: Any) -> str:
    """Returns SHA-256 of the canonical JSON of a value, 64 hexadecimal digits.

    Example:
        >>> sha256_of([1])[:8]
        '080a9ed4'
    """
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def commitment(value: Any, salt: bytes) -> str:
    """Returns a hash that fixes a value and, without the salt, tells nothing about it.

    SHA-256 of the canonical JSON of salt and value. Nobody can open it as another value without a
    collision of SHA-256, and 256 secret bits of salt leave nothing to search, however few values
    are possible.

    Args:
        value: a JSON value.
        salt: 32 secret bytes, used for no other commitment.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: the salt has another length.

    Example:
        >>> commitment([True], bytes(32)) == commitment([False], bytes(32))
        False
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"salt must be {SALT_BYTES} bytes, got {len(salt)}")
    return sha256_of({"salt": salt.hex(), "value": value})
