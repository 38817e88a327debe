"""Canaries of an audited run in the synthetic records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpjax.audit import open_coins, read_canaries, read_manifest

_DELETED = (
    "The texts of the canaries are not there: private/ is deleted when a run ends. Keep a copy of "
    "private/canaries.json and private/coins.json, and put it back into the run to search for them."
)


def find_canaries(run: Path, texts: Sequence[str]) -> dict[str, Any] | None:
    """Searches the records for what a model could learn from a canary alone.

    Args:
        run: folder of the run.
        texts: the synthetic records.

    Returns:
        How many canaries there are, and how many of those in and out of training some record
        holds; null and a reason where their texts are gone. None where the run has no canaries.

    Raises:
        ValueError: a file of the audit is damaged.
    """
    if not (run / "manifest.json").exists():
        return None
    manifest = read_manifest(run)
    if manifest.records_commitment is None:
        return None
    described: dict[str, Any] = {"num": len(manifest.ids), "in_training": None, "left_out": None}
    try:
        secrets, included = read_canaries(run).secrets, open_coins(run).included
    except FileNotFoundError:
        return described | {"reason": _DELETED}
    plain = [_plain(text) for text in texts]
    found = [any(_plain(secret) in text for text in plain) for secret in secrets]
    pairs = list(zip(found, included, strict=True))
    return described | {
        "in_training": sum(is_found and bool(is_in) for is_found, is_in in pairs),
        "left_out": sum(is_found and not is_in for is_found, is_in in pairs),
        "reason": None,
    }


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
