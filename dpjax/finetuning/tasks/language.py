"""What tasks of models that write have in common, whatever they learn from."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

import jax
import numpy as np

from dpjax.data import Completions, Conversations, encode_prompts, find_prompts
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.tasks.base import HeldOutPrompts, Task
from dpjax.models import Loading, Model, TransformerConfig, load_causal_lm
from dpjax.models import Task as ModelTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EVALUATED_CHUNK = 8192
"""Bounds the logits held at once in an evaluation where nobody has asked for a number."""


class Targets(NamedTuple):
    """The tokens of a text that count, apart from the others: three arrays `(..., K)`.

    Attributes:
        places: int32, the position that predicts the token; 0 where there are fewer than K.
        ids: int32, the token.
        counts: bool, False where there are fewer.
    """

    places: jax.Array
    ids: jax.Array
    counts: jax.Array

    @classmethod
    def pick(cls, input_ids: np.ndarray, loss_mask: np.ndarray, most: int) -> Targets:
        """Returns the tokens of `(N, T)` that count, at most `most` in a row, in their order.

        Example:
            >>> ids, counts = np.array([[5, 6, 7]]), np.array([[False, False, True]])
            >>> [each.tolist() for each in Targets.pick(ids, counts, most=2)]
            [[[1, 0]], [[7, 0]], [[True, False]]]
        """
        columns = np.argsort(~loss_mask, axis=1, kind="stable")[:, :most]
        counts = np.take_along_axis(loss_mask, columns, axis=1)
        ids = np.where(counts, np.take_along_axis(input_ids, columns, axis=1), 0)
        places = np.where(counts, columns - 1, 0)
        arrays = places.astype(np.int32), ids.astype(np.int32), counts
        short = ((0, 0), (0, most - columns.shape[1]))
        return cls(*(np.pad(array, short) for array in arrays))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageTask(Task):
    """A decoder learns from texts that it reads token by token.

    Attributes:
        vocab_chunk: how many tokens' logits are held at once; None for all. There is no loss while
            it is "auto".
        separator: what stands between a prompt and its completion.
        today: the date and time that chat templates are given.
    """

    vocab_chunk: int | Literal["auto"] | None = "auto"
    separator: str = ""
    today: datetime.datetime | None = None

    needs_padding_token: ClassVar[bool] = False

    def with_config(self, config: FinetuneConfig) -> Self:
        """Returns the task with the vocab_chunk of the configuration."""
        return dataclasses.replace(self, vocab_chunk=config.compute.vocab_chunk)

    def model_task(self, model: TransformerConfig) -> ModelTask:
        """Returns the task of a language model."""
        del model
        return "causal_lm"

    def load(
        self, checkpoint: Path, config: FinetuneConfig, key: jax.Array, loading: Loading
    ) -> Model:
        """Loads the checkpoint as a language model; nothing in it is new."""
        del config, key
        return load_causal_lm(checkpoint, loading=loading)

    def first_prompts(
        self,
        config: FinetuneConfig,
        records: Completions | Conversations,
        tokenizer: PreTrainedTokenizerBase,
    ) -> HeldOutPrompts | None:
        """Returns the first held-out prompts that the report answers; None if it answers none.

        Raises:
            ValueError: whatever could be wrong with them is found before training.
        """
        num_prompts = config.generation.num_prompts
        if not num_prompts:
            return None
        prompts = find_prompts(records)
        encoded = encode_prompts(
            prompts[:num_prompts],
            tokenizer,
            config.training.max_length,
            separator=self.separator,
            today=self.today,
        )
        return HeldOutPrompts(prompts[:num_prompts], encoded, len(records) - len(prompts))

    def resolved_chunk(self) -> int | None:
        """Returns vocab_chunk; ValueError while it is "auto"."""
        if isinstance(self.vocab_chunk, str):
            raise ValueError(
                f"compute.vocab_chunk={self.vocab_chunk} must be resolved before there is a loss"
            )
        return self.vocab_chunk
