"""What makes a text valid Unicode."""

from __future__ import annotations


def has_half_surrogate(value: str) -> bool:
    """Whether there is half a surrogate pair, which no tokenizer and no file in UTF-8 accepts.

    JSON can escape one, and bytes of a command line that are not UTF-8 become such.
    """
    return not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value)
