"""What scores read of N records."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpjax.audit.scores.gradient_scores import GradientStatistics
from dpjax.audit.scores.token_statistics import TokenStatistics


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """What scores read of N records; None where no score needs it.

    Attributes:
        tuned: token statistics under the tuned model.
        base: the same tokens under the model before tuning.
        lowercase: the records in lower case under the tuned model.
        texts: N strings, the text of the target tokens.
        neighbours: (N, n) mean log-probabilities of n neighbours under the tuned model, in nats.
        logits: (N, K) of a classifier.
        labels: (N,) integers, the records' classes.
        gradients: of the records' losses.

    Raises:
        ValueError: the fields are of different numbers of records, or all are None.
    """

    tuned: TokenStatistics | None = None
    base: TokenStatistics | None = None
    lowercase: TokenStatistics | None = None
    texts: Sequence[str] | None = None
    neighbours: NDArray[np.floating] | None = None
    logits: NDArray[np.floating] | None = None
    labels: NDArray[np.integer] | None = None
    gradients: GradientStatistics | None = None

    def __post_init__(self) -> None:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lengths = {name: len(value) for name, value in fields.items() if value is not None}
        if not lengths:
            raise ValueError("evidence must hold something, got nothing but None.")
        if len(set(lengths.values())) > 1:
            raise ValueError(f"evidence must be of one number of records, got {lengths}.")

    def __len__(self) -> int:
        fields = (getattr(self, field.name) for field in dataclasses.fields(self))
        return next(len(value) for value in fields if value is not None)
