"""Records with labels that are not their own: a classifier knows them only by heart."""

from __future__ import annotations

from collections.abc import Sequence

from dpjax.audit.canaries.makers.base import Canaries, canary_rng, number_ids
from dpjax.data import Records, TaggedWords
from dpjax.privatize import RunKey

KIND = "mislabelled"


def make_mislabelled(
    num_canaries: int,
    *,
    run_key: RunKey,
    held_out: Records | TaggedWords,
    label_names: Sequence[str],
) -> Canaries:
    """Makes records whose label, or the tag of each word, is drawn uniformly from all others.

    Take the texts from a reserve that serves nothing else: a text that is trained on as well, or on
    which accuracy is measured, spoils both. `Canaries.source_rows` says which rows were drawn.

    Args:
        num_canaries: N.
        run_key: the secret of the run, which draws rows and labels.
        held_out: records that are not in the training data.
        label_names: all labels, at least two.

    Returns:
        N canaries with records of the same type; each label is a secret, or all tags of a text
        are, and all texts differ.

    Raises:
        ValueError: there are fewer different texts than canaries, fewer than two labels, or a
            record has a label that is not among them.

    Example:
        >>> held_out = Records(["good", "bad", "dull"], ["yes", "no", "no"])
        >>> canaries = make_mislabelled(
        ...     2, run_key=RunKey.from_seed(1), held_out=held_out, label_names=("no", "yes")
        ... )
        >>> own = dict(zip(held_out.texts, held_out.labels))
        >>> [label != own[text] for text, label in zip(canaries.records.texts, canaries.secrets)]
        [True, True]
    """
    ids = number_ids(KIND, num_canaries)
    if len(set(label_names)) < 2 or len(set(label_names)) < len(label_names):
        raise ValueError(f"label_names must be different labels, two or more, got {label_names!r}")
    unknown = sorted(set(held_out.labels) - set(label_names))
    if unknown:
        raise ValueError(f"held_out must have labels of label_names, got {unknown[0]!r}")
    rng = canary_rng(run_key, KIND)
    texts = held_out.texts if isinstance(held_out, Records) else list(map(" ".join, held_out.words))
    rows = _different_texts(texts, rng.permutation(len(held_out)).tolist())[:num_canaries]
    if len(rows) < num_canaries:
        raise ValueError(
            f"{num_canaries} canaries of kind {KIND!r} need as many different texts, got "
            f"{len(rows)}. Give more records that are not in training, or take fewer canaries"
        )

    def drawn_anew(own: str) -> str:
        others = [label for label in label_names if label != own]
        return others[int(rng.integers(len(others)))]

    records: Records | TaggedWords
    if isinstance(held_out, Records):
        records = Records(
            [texts[row] for row in rows], [drawn_anew(held_out.labels[row]) for row in rows]
        )
        secrets = records.labels
    else:
        tags = [[drawn_anew(tag) for tag in held_out.tags[row]] for row in rows]
        records = TaggedWords([held_out.words[row] for row in rows], tags)
        secrets = list(map(" ".join, tags))
    return Canaries(
        kind=KIND, ids=ids, records=records, secrets=tuple(secrets), source_rows=tuple(rows)
    )


def _different_texts(texts: Sequence[str], rows: Sequence[int]) -> list[int]:
    """The rows, without those whose text came before."""
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(texts[row], row)
    return list(first.values())
