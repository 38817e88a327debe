"""All that is measured of one model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpjax.audit import (
    TokenStatistics,
    exact_memorisation,
    extraction_strength,
    ratio_score,
    token_statistics,
)
from dpjax.data import LanguageDataset
from dpjax.models import CausalLM, base_model
from dpjax.unlearning.measures.continuations import mean_rouge_l
from dpjax.unlearning.measures.truth_ratio import Questions, log_truth_ratios, median_ratio

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class MeasuredRecords:
    """What models are measured on.

    Attributes:
        parts: "forget", "retain" and "held_out" records, each with a target.
        tokenizer: of the models.
        end_tokens: each ends a text.
        has_prompts: False of whole texts.
        questions: about the forget set; None without them.
    """

    parts: Mapping[str, LanguageDataset]
    tokenizer: PreTrainedTokenizerBase
    end_tokens: tuple[int, ...]
    has_prompts: bool
    questions: Questions | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What one model makes of the records.

    Attributes:
        numbers: of each part the loss in nats per token, the exact memorisation, the extraction
            strength, and ROUGE-L, all means over records.
        forget_scores: `(F,)`, of the attack that knows the base; higher for members.
        held_out_scores: `(H,)`, the same of held-out records.
        relearnt_loss: loss on the forget set after a few steps of tuning on it.
        log_truth_ratios: `(Q,)`, of the questions about the forget set; None without them.
    """

    numbers: dict[str, dict[str, float]]
    forget_scores: NDArray[np.float64]
    held_out_scores: NDArray[np.float64]
    relearnt_loss: float
    log_truth_ratios: NDArray[np.float64] | None = None

    def loss(self, part: str) -> float:
        """Returns the mean loss of a part, in nats per token."""
        return self.numbers[part]["loss"]

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers; the score of a single record is left out."""
        numbers: dict[str, Any] = self.numbers | {"relearnt_loss": self.relearnt_loss}
        if self.log_truth_ratios is not None:
            numbers["truth_ratio"] = median_ratio(self.log_truth_ratios)
        return numbers

    def to_stored(self) -> dict[str, Any]:
        """Returns everything, ready for JSON, which keeps each digit."""
        stored = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in stored.items()
        }

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Measured:
        """Returns what `to_stored` was called on."""
        arrays = {
            name: np.asarray(stored[name], np.float64)
            for name in ("forget_scores", "held_out_scores", "log_truth_ratios")
            if stored[name] is not None
        }
        return cls(**{**stored, **arrays})


def measure_model(model: CausalLM, records: MeasuredRecords, *, relearnt_loss: float) -> Measured:
    """Measures losses, memorisation and the attack's scores, in a pass over each part, and ROUGE-L.

    Args:
        model: with adapters.
        records: what is measured.
        relearnt_loss: see `Measured`.

    Raises:
        ValueError: a loss is not finite.
    """
    base = base_model(model)
    statistics = {part: token_statistics(model, data) for part, data in records.parts.items()}
    numbers = {}
    for part, of_part in statistics.items():
        numbers[part] = _memorisation(of_part) | {
            "rouge_l": mean_rouge_l(
                model,
                records.parts[part],
                records.tokenizer,
                end_tokens=records.end_tokens,
                has_prompts=records.has_prompts,
            )
        }
    scores = {
        part: ratio_score(statistics[part], token_statistics(base, records.parts[part]))
        for part in ("forget", "held_out")
    }
    return Measured(
        numbers,
        scores["forget"],
        scores["held_out"],
        relearnt_loss,
        None if records.questions is None else log_truth_ratios(model, records.questions),
    )


def _memorisation(statistics: TokenStatistics) -> dict[str, float]:
    log_probs = np.where(statistics.is_target, statistics.log_probs, 0.0).sum(axis=1)
    return {
        "loss": float(-(log_probs / statistics.num_targets).mean()),
        "exact_memorisation": exact_memorisation(statistics, statistics).value,
        "extraction_strength": extraction_strength(statistics, statistics).value,
    }
