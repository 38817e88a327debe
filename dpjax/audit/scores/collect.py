"""The forward passes that some scores need, each made once."""

from __future__ import annotations

from collections.abc import Sequence

from dpjax.audit.scores.evidence import Evidence
from dpjax.audit.scores.neighbours import Neighbours, neighbour_log_probs
from dpjax.audit.scores.registry import needs_of
from dpjax.audit.scores.token_passes import token_statistics
from dpjax.data import LanguageDataset
from dpjax.models import CausalLM

_DEFAULT_NEIGHBOURS = Neighbours()


def collect_evidence(
    names: Sequence[str],
    records: LanguageDataset,
    *,
    tuned: CausalLM,
    base: CausalLM | None = None,
    texts: Sequence[str] | None = None,
    lowercase: LanguageDataset | None = None,
    neighbours: Neighbours = _DEFAULT_NEIGHBOURS,
    batch_size: int = 16,
) -> Evidence:
    """Makes the forward passes that some scores of texts need, each once.

    `compute_scores(names, collect_evidence(names, ...))` are the scores.

    Args:
        names: keys of `SCORES`, each once.
        records: N encoded records.
        tuned: the tuned model.
        base: the model before tuning; `dpjax.models.base_model(tuned)` of one with adapters.
        texts: N strings, for "zlib"; `target_texts` makes them.
        lowercase: the records in lower case, for "lowercase"; `lowercase_records` makes them, and
            they are encoded as the others are.
        neighbours: how they are made, for "neighbourhood". The base proposes their tokens, or the
            tuned model if there is no base.
        batch_size: records at a time.

    Raises:
        TypeError: a model is no language model.
        ValueError: a name is unknown, is no score of texts or is given twice, something that a
            score needs is missing, or lengths differ. All of it before any model runs.
    """
    needed = needs_of(names)
    _check_given(needed, {"base": base, "texts": texts, "lowercase": lowercase})
    for name, given in (("texts", texts), ("lowercase", lowercase)):
        if name in needed and given is not None and len(given) != len(records):
            raise ValueError(
                f"{name} must be {len(records)}, one for each record, got {len(given)}."
            )

    base_statistics = lowercase_statistics = neighbour_means = None
    if "base" in needed and base is not None:
        base_statistics = token_statistics(base, records, batch_size=batch_size)
    if "lowercase" in needed and lowercase is not None:
        lowercase_statistics = token_statistics(tuned, lowercase, batch_size=batch_size)
    if "neighbours" in needed:
        neighbour_means = neighbour_log_probs(
            tuned,
            records,
            neighbours=neighbours,
            proposer=tuned if base is None else base,
            batch_size=batch_size,
        )
    return Evidence(
        tuned=token_statistics(tuned, records, batch_size=batch_size),
        base=base_statistics,
        lowercase=lowercase_statistics,
        texts=texts if "texts" in needed else None,
        neighbours=neighbour_means,
    )


def _check_given(needed: frozenset[str], given: dict[str, object]) -> None:
    foreign = sorted(needed & {"labels", "logits", "gradients"})
    if foreign:
        raise ValueError(
            f"names must be scores of texts, got some that need {' and '.join(foreign)}. Compute"
            " these from an Evidence of their own."
        )
    missing = [name for name in given if name in needed and given[name] is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be given: the scores need them.")
