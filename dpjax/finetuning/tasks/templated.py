"""Texts inside a template, whose label a new classifier reads where the answer would stand."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dpjax.data import (
    Records,
    Template,
    TextDataset,
    encode_templated,
    tokens_of_words,
    trim_padding,
)
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.tasks.classification import SequenceClassification
from dpjax.models import (
    SequenceClassifier,
    TransformerConfig,
    centre_features,
    load_word_rows,
    start_from_language_head,
)
from dpjax.models import Task as ModelTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class TemplatedClassification(SequenceClassification):
    """Each text has one of several labels, and is put into a template for a decoder.

    What the decoder knows before it answers is in its last token; a linear classifier of that one
    is a probe (Alain and Bengio 2017, arXiv:1610.01644) of a prompted model.

    Attributes:
        template: as given.
        layers: whose last tokens the classifier reads; none for the last layer as it is.
        rows: tokens of the words of each label, in the order of `labels`, where the classifier
            starts from them; empty before the tokenizer is known.
    """

    template: str = ""
    layers: tuple[int, ...] = ()
    rows: tuple[tuple[int, ...], ...] = ()

    # No one reads what follows the last token of a decoder.
    needs_padding_token: ClassVar[bool] = False

    @classmethod
    def from_config(
        cls, config: FinetuneConfig, started_at: datetime.datetime
    ) -> TemplatedClassification:
        """Makes the task; its labels are not known yet."""
        del started_at
        return cls(
            label_smoothing=config.training.label_smoothing,
            template=config.head.template or "",
            words=config.head.words(),
            layers=config.features.layers,
        )

    def model_task(self, model: TransformerConfig) -> ModelTask:
        """Returns the task of a classifier; ValueError unless the model is a decoder."""
        if not model.causal:
            found, advice = "without head.label_words", "Give head.label_words"
            if self.words:
                found, advice = "with features.layers", "Leave features.layers out"
            raise ValueError(
                f"head.template {found} is for a decoder, whose last token is read, got a "
                f"{model.model_type} model. {advice}, or leave the template out"
            )
        Template(self.template, is_causal=True)
        if self.words and max(self.layers) < model.num_layers:
            raise ValueError(
                "head.label_words with a template are read in the last layer: add "
                f"{model.num_layers} to features.layers, got {list(self.layers)}"
            )
        return super().model_task(model)

    def with_tokenizer(
        self, model: TransformerConfig, tokenizer: PreTrainedTokenizerBase
    ) -> TemplatedClassification:
        """Returns the task with the tokens of all words."""
        if not self.words:
            return self
        if model.feature_layers:
            raise ValueError(
                "head.label_words start a new classifier, and the checkpoint has one on features of"
                f" the layers {list(model.feature_layers)}: leave them out"
            )
        template = Template(self.template, is_causal=True)
        rows = tokens_of_words(template, self.labels, self.words, tokenizer)
        return dataclasses.replace(self, rows=rows)

    def encode(
        self, records: Records, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> TextDataset:
        """Returns the records in the template as arrays."""
        template = Template(self.template, is_causal=True)
        return encode_templated(records, tokenizer, self.labels, max_length, template)

    def centre(
        self, model: SequenceClassifier, tokenizer: PreTrainedTokenizerBase, config: FinetuneConfig
    ) -> np.ndarray:
        """Sets the centre of a new classifier's features from random words in the template."""
        longest = config.training.max_length

        def encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            records = Records(list(texts), [self.labels[0]] * len(texts))
            data = trim_padding(self.encode(records, tokenizer, longest))
            return data.input_ids, data.attention_mask

        return centre_features(model, tokenizer, encode)

    def start_from_words(
        self, model: SequenceClassifier, checkpoint: Path, norms: np.ndarray | None
    ) -> None:
        """Sets the classifier to what the language head says of the words."""
        assert norms is not None  # with_tokenizer refuses checkpoints that have a centre
        rows = load_word_rows(checkpoint, [token for label in self.rows for token in label])
        ends = np.cumsum([len(label) for label in self.rows])[:-1]
        start_from_language_head(model, np.split(rows, ends), norms[-1])

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Says that the template is public, and what the classifier starts from."""
        template = f"The template {self.template!r}, into which each text is put, is public."
        return (template, *super().assumptions)
