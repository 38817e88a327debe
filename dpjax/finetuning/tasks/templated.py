"""Texts inside a template, whose label a new classifier reads where the answer would stand."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dpjax.data import Records, Template, TextDataset, encode_templated, trim_padding
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.tasks.classification import SequenceClassification
from dpjax.models import SequenceClassifier, TransformerConfig, centre_features
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
    """

    template: str = ""

    # No one reads what follows the last token of a decoder.
    needs_padding_token: ClassVar[bool] = False

    @classmethod
    def from_config(
        cls, config: FinetuneConfig, started_at: datetime.datetime
    ) -> TemplatedClassification:
        """Makes the task; its labels are not known yet."""
        del started_at
        smoothing = config.training.label_smoothing
        return cls(label_smoothing=smoothing, template=config.head.template or "")

    def model_task(self, model: TransformerConfig) -> ModelTask:
        """Returns the task of a classifier; ValueError unless the model is a decoder."""
        if not model.causal:
            raise ValueError(
                "head.template without head.label_words is for a decoder, whose last token is read,"
                f" got a {model.model_type} model. Give head.label_words, or leave the template out"
            )
        Template(self.template, is_causal=True)
        return super().model_task(model)

    def encode(
        self, records: Records, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> TextDataset:
        """Returns the records in the template as arrays."""
        template = Template(self.template, is_causal=True)
        return encode_templated(records, tokenizer, self.labels, max_length, template)

    def centre(
        self, model: SequenceClassifier, tokenizer: PreTrainedTokenizerBase, config: FinetuneConfig
    ) -> None:
        """Sets the centre of a new classifier's features from random words in the template."""
        longest = config.training.max_length

        def encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            records = Records(list(texts), [self.labels[0]] * len(texts))
            data = trim_padding(self.encode(records, tokenizer, longest))
            return data.input_ids, data.attention_mask

        centre_features(model, tokenizer, encode)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Says that the template is public."""
        return (f"The template {self.template!r}, into which each text is put, is public.",)
