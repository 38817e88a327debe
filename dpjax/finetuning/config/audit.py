"""The options of an audit inside a run."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from dpjax.option_checks import CheckedOptions, check_at_least, check_choice

CanaryKindName = Literal["auto", "new-token", "random-tokens", "random-labelled", "mislabelled"]
ScoreName = Literal["auto", "loss", "ratio", "min_k", "min_k_plus", "zlib", "ez", "wbc"]


@dataclasses.dataclass(frozen=True)
class Audit(CheckedOptions):
    """Canaries: records that fair coins put into training or leave out, to measure what leaks.

    Example:
        >>> Audit(num_canaries=200).score
        'auto'
    """

    num_canaries: int = 0
    """How many; about half of them are trained on. 0 for no audit."""
    kind: CanaryKindName = "auto"
    """new-token: an unused token after random ones. random-tokens: a text of random tokens.
    random-labelled: the same with a random label. mislabelled: held-out records with another label,
    which then count no more in the accuracy. auto is random-labelled for texts with labels; for
    texts that are written new-token, or random-tokens where too few tokens are unused."""
    score: ScoreName = "auto"
    """What the verdict rests on, chosen before training; auto is ratio, the loss before tuning
    against the loss after it, for texts that are written, and loss for texts with labels."""
    confidence: float = 0.95
    """A right ε is called a violation in at most 1 − confidence of audits."""
    most_share: float = 0.01
    """The largest share of the training tokens that canaries may be."""

    @property
    def expected_included(self) -> int:
        """Canaries that count as training records, whatever the coins say: half of them."""
        return self.num_canaries // 2

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        check_at_least("audit.num_canaries", self.num_canaries, 0)
        check_choice("audit.kind", self.kind, get_args(CanaryKindName))
        check_choice("audit.score", self.score, get_args(ScoreName))
        for name in ("confidence", "most_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"audit.{name} must be between 0 and 1, got {getattr(self, name)}")
