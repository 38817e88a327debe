"""private_comparison.md: the comparison for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_QUANTILES = ("least", "p05", "median", "p95", "largest")


def comparison_markdown(found: Mapping[str, Any]) -> str:
    """Returns private_comparison.md.

    Args:
        found: contents of private_comparison.json.
    """
    sections = ["# Synthetic beside private records", f"> **{found['warning']}**"]
    if found["lengths"] is not None:
        sections += ["## Lengths in words", _lengths(found["lengths"])]
        sections += ["## n-grams of words", _ngrams(found["ngrams"])]
        num = found["lengths"]["synthetic"]["records"]
        sections += ["## Copies", _copies(found["copies"], num)]
        sections += ["## Distance to the nearest training record", _distances(found["distances"])]
        sections.append(
            "1 − |A ∩ B| / |A ∪ B| of the sets of words and pairs of words. Look at synthetic "
            "records that are much nearer to training records than these are to each other."
        )
    if found["canaries"] is not None:
        sections += ["## Canaries", _canaries(found["canaries"])]
    if found["classifier"] is not None:
        sections += ["## Trained on synthetic, tested on real", _classifier(found["classifier"])]
    return "\n\n".join(sections) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _lengths(lengths: Mapping[str, Any]) -> str:
    rows = [
        [name, *(f"{lengths[name][key]:.4g}" for key in ("records", "mean", *_QUANTILES))]
        for name in ("synthetic", "real")
    ]
    return _table(("", "records", "mean", *_QUANTILES), rows)


def _ngrams(ngrams: Sequence[Mapping[str, Any]]) -> str:
    names = (
        "synthetic_found_in_real",
        "real_found_in_synthetic",
        "distinct_in_synthetic",
        "distinct_in_real",
    )
    rows = [[str(each["n"]), *(_share(each[name]) for name in names)] for each in ngrams]
    return _table(("n", *(name.replace("_", " ") for name in names)), rows)


def _copies(copies: Mapping[str, Any], num: int) -> str:
    least, long = copies["fewest_words_of_a_whole_record"], copies["words_of_a_long_part"]
    said = {
        "equal": "are equal to a training record",
        "whole": f"hold a whole training record of at least {least} words",
        "long_part": f"share {long} words in a row with a training record",
    }
    lines = [f"- {copies[key]} of {num} records {what}" for key, what in said.items()]
    lines.append(f"- {copies['training_records_copied']} training records are in some record whole")
    return "\n".join(lines)


def _distances(distances: Mapping[str, Any]) -> str:
    rows = [
        [name.replace("_", " "), *(f"{values[key]:.3f}" for key in _QUANTILES)]
        for name, values in distances.items()
        if values is not None
    ]
    return _table(("", *_QUANTILES), rows)


def _canaries(canaries: Mapping[str, Any]) -> str:
    if canaries["reason"] is not None:
        return f"The run has {canaries['num']} canaries. {canaries['reason']}"
    return (
        f"Of {canaries['num']} canaries the records hold {canaries['in_training']} that were in "
        f"training, and {canaries['left_out']} that a coin left out."
    )


def _classifier(classifier: Mapping[str, Any]) -> str:
    return (
        f"Accuracy {_share(classifier['accuracy'])} on {classifier['held_out_records']} held-out "
        f"records; {_share(classifier['share_of_most_frequent_label'])} have the most frequent "
        "label."
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
