"""Texts beside a record: some of its target tokens are replaced by others."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from dpjax.audit.scores.token_passes import mean_log_probs, probable_tokens
from dpjax.audit.scores.token_statistics import require_targets
from dpjax.data import LanguageDataset
from dpjax.models import CausalLM


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbours:
    """How the neighbours of a record are made.

    In every neighbour max(1, ⌊share · n⌋) of the record's n target tokens, drawn without
    replacement, are replaced, each by a token drawn uniformly from those that may stand there
    except the one that does.

    Attributes:
        number: neighbours of each record.
        share: of the target tokens that are replaced, above 0 and at most 1.
        top_k: how many tokens may stand at a position, at least 2: those that a model finds most
            probable there, given the record's tokens before it. None: any of the vocabulary.
        seed: of all draws, at least 0. The draws of a record depend on its place among the records.

    Raises:
        ValueError: a value is outside its range.

    Example:
        >>> Neighbours(number=20, top_k=None).share
        0.3
    """

    number: int = 50
    share: float = 0.3
    top_k: int | None = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"number must be at least 1, got {self.number}.")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}.")
        if self.top_k is not None and self.top_k < 2:
            raise ValueError(f"top_k must be at least 2, or None for all, got {self.top_k}.")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}.")


def neighbour_log_probs(
    tuned: CausalLM,
    records: LanguageDataset,
    *,
    neighbours: Neighbours,
    proposer: CausalLM,
    batch_size: int = 16,
) -> NDArray[np.float64]:
    """Computes how probable the tuned model finds each record's neighbours.

    One forward pass for each neighbour, and one of the proposer if it is asked.

    Args:
        tuned: the tuned model.
        records: N encoded records.
        neighbours: how they are made.
        proposer: the model whose most probable tokens are put in; its base, because what the tuned
            model proposes depends on whether the record was learnt. Not asked without a `top_k`.
        batch_size: records at a time.

    Returns:
        (N, number) float64, mean log-probability of a neighbour's target tokens, in nats.

    Raises:
        TypeError, ValueError: as for `token_statistics`; ValueError for a record without a target.
    """
    require_targets(records.loss_mask)
    if neighbours.top_k is None:
        candidates = np.arange(tuned.config.vocab_size, dtype=np.int32)
    else:
        candidates = probable_tokens(
            proposer, records, number=neighbours.top_k, batch_size=batch_size
        )
    columns = []
    for index in range(neighbours.number):
        rng = np.random.default_rng((neighbours.seed, index))
        changed = replace_tokens(records, candidates, share=neighbours.share, rng=rng)
        columns.append(mean_log_probs(tuned, changed, batch_size=batch_size))
    return np.stack(columns, axis=1)


def replace_tokens(
    records: LanguageDataset,
    candidates: NDArray[np.integer],
    *,
    share: float,
    rng: np.random.Generator,
) -> LanguageDataset:
    """Replaces some target tokens of every record, as `Neighbours` says.

    Args:
        records: N encoded records, each with a target token.
        candidates: (K,) different tokens that may stand anywhere, or (N, T, K) for every position.
        share: of the target tokens that are replaced, above 0 and at most 1.
        rng: draws positions and tokens.

    Returns:
        New records with the same masks.

    Raises:
        ValueError: there are fewer than 2 candidates, or a record has no target token.
    """
    num_candidates = candidates.shape[-1]
    if num_candidates < 2:
        raise ValueError(f"candidates must be at least 2 for a position, got {num_candidates}.")
    require_targets(records.loss_mask)
    # In floating point 0.29 * 100 is less than 29.
    wanted = np.maximum(1, np.floor(share * records.loss_mask.sum(axis=1) + 1e-9))
    order = np.where(records.loss_mask, rng.random(records.loss_mask.shape), np.inf).argsort(axis=1)
    is_replaced = order.argsort(axis=1) < wanted[:, None]
    present = records.input_ids[is_replaced]
    choices = (
        np.broadcast_to(candidates, (len(present), num_candidates))
        if candidates.ndim == 1
        else candidates[is_replaced]
    )
    drawn = rng.integers(num_candidates, size=len(present))
    others = (drawn + 1 + rng.integers(num_candidates - 1, size=len(present))) % num_candidates
    rows = np.arange(len(present))
    # Drawing once more among the others keeps all but the present token equally probable.
    tokens = np.where(choices[rows, drawn] == present, choices[rows, others], choices[rows, drawn])
    ids = records.input_ids.copy()
    ids[is_replaced] = tokens
    return dataclasses.replace(records, input_ids=ids)
