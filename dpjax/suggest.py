"""Misspelt names are refused with the nearest valid one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# As difflib counts: 1 for equal names, 0 for names without a letter in common.
_LEAST_SIMILARITY = 0.5


def did_you_mean(name: object, valid: Iterable[str], *, prefix: str = "") -> str:
    """Returns `" Did you mean 'query'?"` if a valid name is close to `name`, else nothing.

    Args:
        name: what was given.
        valid: what may be given.
        prefix: stands before the suggested name, such as "text_column=".
    """
    close = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=_LEAST_SIMILARITY)
    return f" Did you mean {prefix}{close[0]!r}?" if close else ""
