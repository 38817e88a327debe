"""Texts whose label is a word that the model itself says, as `head.template` asks for it."""

from __future__ import annotations

import dataclasses
import datetime
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from dpjax.basics.typing import PyTree
from dpjax.data import Records, Template, TemplatedDataset, encode_templated, tokens_of_words
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.tasks.base import Loss, Measure, merge_for_record
from dpjax.finetuning.tasks.classification import SequenceClassification
from dpjax.models import (
    CausalLM,
    Loading,
    MaskedLM,
    Model,
    TransformerConfig,
    load_causal_lm,
    load_masked_lm,
    read_config,
    sequence_classification_loss,
)
from dpjax.models import Task as ModelTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TemplatedBatch(NamedTuple):
    """Encoded texts of one static shape: `(b, T)` int32, `(b, T)` bool, `(b,)` int32 twice.

    `dropout_keys`, `(b, 2)` uint32, is there while adapters are trained with dropout.
    """

    input_ids: jax.Array
    attention_mask: jax.Array
    labels: jax.Array
    positions: jax.Array
    dropout_keys: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class LabelWordClassification(SequenceClassification):
    """Each text has one of several labels, and the model says a word for it (Li et al. 2022).

    Of the language head (arXiv:2110.05679, section 3) only the rows of the labels' words are
    computed.

    Attributes:
        template: as given.
        tuning: what is trained.
        rows: tokens of the words of each label, in the order of `labels`; empty before the
            tokenizer is known.
        is_causal: whether the model is a decoder; known with the tokenizer.
    """

    template: str = ""
    tuning: str = "lora"
    rows: tuple[tuple[int, ...], ...] = ()
    is_causal: bool = False

    # Encoders all have one, and no one reads what follows the last token of a decoder.
    needs_padding_token: ClassVar[bool] = False

    makes_head: ClassVar[bool] = False

    @classmethod
    def from_config(
        cls, config: FinetuneConfig, started_at: datetime.datetime
    ) -> LabelWordClassification:
        """Makes the task; labels and tokens are not known yet."""
        del started_at
        return cls(
            label_smoothing=config.training.label_smoothing,
            template=config.head.template or "",
            words=config.head.words(),
            tuning=config.tuning,
        )

    def model_task(self, model: TransformerConfig) -> ModelTask:
        """Returns the task of the head that has the words."""
        Template(self.template, model.causal)
        if model.causal and self.tuning == "head":
            raise ValueError(
                "tuning=head with head.template has nothing sensible to train in a decoder: its "
                "head is the whole vocabulary, of which only the words of labels would learn. Give "
                f"features.layers with the last layer, {model.num_layers}, which makes a classifier"
                " that starts from the words, or tuning=lora or another one"
            )
        return "causal_lm" if model.causal else "masked_lm"

    def with_labels(self, labels: tuple[str, ...]) -> LabelWordClassification:
        """Returns the task with labels whose words are known."""
        return dataclasses.replace(self, labels=labels)

    def with_tokenizer(
        self, model: TransformerConfig, tokenizer: PreTrainedTokenizerBase
    ) -> LabelWordClassification:
        """Returns the task with the tokens of all words."""
        template = Template(self.template, model.causal)
        rows = tokens_of_words(template, self.labels, self.words, tokenizer)
        return dataclasses.replace(self, rows=rows, is_causal=model.causal)

    def encode(
        self, records: Records, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> TemplatedDataset:
        """Returns the records in the template as arrays."""
        template = Template(self.template, self.is_causal)
        return encode_templated(records, tokenizer, self.labels, max_length, template)

    def load(
        self, checkpoint: Path, config: FinetuneConfig, key: jax.Array, loading: Loading
    ) -> Model:
        """Loads the checkpoint with its language head."""
        del config, key
        return self.load_language_model(checkpoint, loading)

    def load_language_model(self, checkpoint: Path, loading: Loading) -> CausalLM | MaskedLM:
        """Loads a checkpoint with its language head; errors as for `load_masked_lm`."""
        load = load_causal_lm if read_config(checkpoint).causal else load_masked_lm
        return load(checkpoint, loading=loading)

    def batch(self, records: TemplatedDataset) -> TemplatedBatch:
        """Returns ids, mask, labels and where words are read."""
        return TemplatedBatch(
            records.input_ids, records.attention_mask, records.labels, records.positions
        )

    def label_logits(self, model: CausalLM | MaskedLM, batch: TemplatedBatch) -> jax.Array:
        """Logits `(..., L)` float32 of the labels: log of the mean of exp over a label's words.

        With the mean a label with more words has no advantage over the others.
        """
        hidden = model.hidden_states(batch.input_ids, batch.attention_mask)
        places = batch.positions[..., None, None]
        hidden = jnp.take_along_axis(hidden, places, axis=-2)[..., 0, :]
        tokens = jnp.array([token for tokens in self.rows for token in tokens], jnp.int32)
        of_words = model.word_logits(hidden, tokens)
        logits, first = [], 0
        for each in self.rows:
            part = of_words[..., first : first + len(each)]
            logits.append(jax.nn.logsumexp(part, axis=-1) - math.log(len(each)))
            first += len(each)
        return jnp.stack(logits, axis=-1)

    def loss_fn(self, graphdef: Any) -> Loss:
        """Makes the cross-entropy over the labels, in nats."""

        def loss(trainable: PyTree, record: TemplatedBatch, frozen: PyTree) -> jax.Array:
            model = merge_for_record(graphdef, trainable, frozen, record)
            logits = self.label_logits(model, record)
            return sequence_classification_loss(logits, record.labels, self.label_smoothing)

        return loss

    def measure_fn(self, graphdef: Any) -> Measure:
        """Makes the function to losses and predicted labels of a batch."""

        @jax.jit
        def measure(
            trainable: PyTree, frozen: PyTree, batch: TemplatedBatch
        ) -> tuple[jax.Array, jax.Array]:
            logits = self.label_logits(nnx.merge(graphdef, trainable, frozen), batch)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
            return losses, jnp.argmax(logits, axis=-1)

        return measure

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Says by which words the model answers."""
        return (
            f"The template {self.template!r} and the words of the labels "
            f"({self.words_in_text()}), by which the model says a label, are public.",
        )

    def summary(self) -> str:
        """Says how many labels there are, and how they are read."""
        words = self.words_in_text()
        return f"{len(self.labels)} labels, read in `{self.template}` by their words ({words})"
