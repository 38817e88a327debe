"""The options of an audit inside a run."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from dpjax.basics.option_checks import CheckedOptions, check_at_least, check_choice

CanaryKindName = Literal[
    "auto",
    "new-token",
    "random-tokens",
    "high-temperature",
    "random-labelled",
    "mislabelled",
    "random-pair",
    "swapped-pair",
]
FAIR = 0.5
ScoreName = Literal["auto", "loss", "ratio", "min_k", "min_k_plus", "zlib", "ez", "wbc"]


@dataclasses.dataclass(frozen=True)
class Audit(CheckedOptions):
    """Records that fair coins put into training or leave out, to measure what leaks.

    Either canaries, which nobody wrote, or the training records themselves.

    Example:
        >>> Audit(num_canaries=200).num_units(4000), Audit(hold_out=0.5).num_units(4000)
        (4100, 2000)
    """

    num_canaries: int = 0
    """How many canaries; about half of them are trained on. 0 for none."""
    hold_out: float = 0.0
    """0.5 leaves each training record out if a fair coin says so, and audits the records instead of
    canaries. Half of them count in the guarantee, whatever the coins say. 0 trains on all."""
    kind: CanaryKindName = "auto"
    """new-token: an unused token after random ones, or a rare one where unused ones are too few.
    random-tokens: a text of random tokens. high-temperature: a text that the model writes before
    tuning. random-labelled: a text of random tokens with a random label, or a random tag for each
    word. mislabelled: held-out records with another label or other tags, which then count no more
    in the accuracy. random-pair: a prompt and two answers of random tokens. swapped-pair: held-out
    pairs the other way round, which then count no more either. auto is random-labelled for texts
    with labels or tags, random-pair for pairs; for texts that are written new-token, or
    random-tokens where too few tokens are unused."""
    score: ScoreName = "auto"
    """What the verdict rests on, chosen before training; auto is ratio, the loss before tuning
    against the loss after it, for texts that are written, and loss for texts with labels or tags
    and for pairs."""
    confidence: float = 0.95
    """A right ε is called a violation in at most 1 − confidence of audits."""
    most_share: float = 0.01
    """The largest share of the training tokens that canaries may be."""

    @property
    def is_wanted(self) -> bool:
        """Whether a run is audited."""
        return self.num_canaries > 0 or self.hold_out > 0

    def num_units(self, num_records: int) -> int:
        """Returns how many records count in the guarantee, whatever the coins say.

        Args:
            num_records: that there are to train on.
        """
        if self.hold_out:
            return num_records // 2
        return num_records + self.num_canaries // 2

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        check_at_least("audit.num_canaries", self.num_canaries, 0)
        self._check_hold_out()
        check_choice("audit.kind", self.kind, get_args(CanaryKindName))
        check_choice("audit.score", self.score, get_args(ScoreName))
        for name in ("confidence", "most_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"audit.{name} must be between 0 and 1, got {getattr(self, name)}")

    def _check_hold_out(self) -> None:
        if self.hold_out not in (0.0, FAIR):
            raise ValueError(
                f"audit.hold_out must be 0 or {FAIR}, got {self.hold_out}: bounds from one run rest"
                " on fair coins"
            )
        if not self.hold_out:
            return
        if self.num_canaries:
            raise ValueError(
                f"audit.hold_out={self.hold_out} and audit.num_canaries={self.num_canaries} are two"
                " audits: give one of them"
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("kind", "most_share") and value != field.default:
                raise ValueError(
                    f"audit.{field.name} is about canaries: leave it out with audit.hold_out, got"
                    f" {value!r}"
                )
