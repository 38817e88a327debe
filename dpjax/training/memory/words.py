"""Bytes in words."""

from __future__ import annotations


def in_words(num_bytes: int) -> str:
    """Says a number of bytes in GB or MB, of 1000 each.

    Example:
        >>> in_words(1_230_000_000), in_words(45_600_000)
        ('1.23 GB', '46 MB')
    """
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.3g} GB"
    return f"{num_bytes / 1e6:.0f} MB"
