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

    `scores(names, collect_evidence(names, ...))` are the scores.

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

    def run(model: CausalLM, of: LanguageDataset):
        return token_statistics(model, of, batch_size=batch_size)

    return Evidence(
        tuned=run(tuned, records),
        base=run(base, records) if "base" in needed and base is not None else None,
        lowercase=run(tuned, lowercase) if "lowercase" in needed and lowercase is not None else None,
        texts=texts if "texts" in needed else None,
        neighbours=neighbour_log_probs(
            tuned,
            records,
            neighbours=neighbours,
            proposer=base or tuned,
            batch_size=batch_size,
        )
        if "neighbours" in needed
        else None,
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
