"""What tasks of models that write have in common, whatever they learn from."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import jax

from dpjax.data import Completions, Conversations, encode_prompts, find_prompts
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.tasks.base import HeldOutPrompts, Task
from dpjax.models import Loading, Model, TransformerConfig, load_causal_lm
from dpjax.models import Task as ModelTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EVALUATED_CHUNK = 8192
"""Bounds the logits held at once in an evaluation where nobody has asked for a number."""


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
