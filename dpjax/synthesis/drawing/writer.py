"""Texts of a tuned decoder, drawn with one key for each place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dpjax.data import EncodedPrompts, Prompt, encode_prompts
from dpjax.models import (
    CausalLM,
    end_token_ids,
    generate,
    load_causal_lm,
    load_tokenizer,
    read_config,
)
from dpjax.synthesis.conditions import Condition
from dpjax.synthesis.config import SynthesisConfig
from dpjax.synthesis.drawing.draws import Draw, Place
from dpjax.synthesis.finished_run import FinishedRun

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class PreparedPrompts:
    """Everything that is checked before the model is loaded.

    Attributes:
        tokenizer: of the tuned model.
        encoded: one prompt for each condition, all padded to one length: the same program and the
            same roundings whatever is drawn together.
        max_new_tokens: the longest text.
    """

    tokenizer: PreTrainedTokenizerBase
    encoded: EncodedPrompts
    max_new_tokens: int


def prepare_prompts(
    config: SynthesisConfig, run: FinishedRun, conditions: Sequence[Condition]
) -> PreparedPrompts:
    """Encodes the prompts as the run encoded its own, and finds how long a text may be.

    A text without a prompt begins with the tokenizer's beginning-of-sequence token, or with the
    end-of-sequence token, which stands between texts, if it has none.

    Raises:
        FileNotFoundError, ValueError: the tokenizer is missing or damaged, a prompt is too long or
            empty, or prompt and text exceed the positions of the model.
    """
    tokenizer = load_tokenizer(run.model, needs_padding=False)
    opening = tokenizer.bos_token or tokenizer.eos_token
    prompts = [
        Prompt(number, opening if condition.prompt is None else condition.prompt, "")
        for number, condition in enumerate(conditions, start=1)
    ]
    max_length = run.config.training.max_length
    encoded = encode_prompts(prompts, tokenizer, max_length, separator=run.config.separator)
    longest = encoded.input_ids.shape[1]
    if encoded.num_truncated or longest >= max_length:
        long = int(np.argmax(encoded.attention_mask.sum(axis=1)))
        raise ValueError(
            f"prompt {long + 1} of {len(prompts)} is as long as training.max_length={max_length} "
            "of the run, which leaves no token to write: give a shorter one"
        )
    max_new_tokens = config.max_new_tokens or max_length - longest
    model = read_config(run.model)
    # Rotary positions have no end.
    if model.rope is None and longest + max_new_tokens > model.max_positions:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} after prompts of up to {longest} tokens is more than "
            f"the {model.max_positions} positions of {run.model}; give at most "
            f"{model.max_positions - longest}"
        )
    if longest + max_new_tokens > model.longest_alike:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} after prompts of up to {longest} tokens is more than "
            f"the {model.longest_alike:g} up to which rotary positions of {run.model} (dynamic or "
            f"longrope) stay as they are; give at most {model.longest_alike - longest:g}"
        )
    return PreparedPrompts(tokenizer, encoded, max_new_tokens)


class Writer:
    """Writes the texts of given places, `batch_size` at once.

    Args:
        run: whose model writes.
        prepared: its prompts.
        config: temperature, top_p and batch_size.
        seed: of all draws.
    """

    def __init__(
        self, run: FinishedRun, prepared: PreparedPrompts, config: SynthesisConfig, seed: int
    ) -> None:
        self._prepared = prepared
        self._config = config
        self._model: CausalLM = load_causal_lm(run.model, loading=run.loading)
        tokenizer = prepared.tokenizer
        self._ends = end_token_ids(run.model, tokenizer)
        padding = tokenizer.pad_token_id
        self._padding = (tokenizer.eos_token_id or 0) if padding is None else padding
        # The same draws whatever generator JAX is set to.
        self._key = jax.random.key(seed, impl="threefry2x32")

    def write(self, places: Sequence[Place]) -> dict[Place, Draw]:
        """Writes one text for each place, at most `batch_size` of them.

        What is written for a place depends on it, on the seed and on rounding.
        """
        filled = list(places) + [places[0]] * (self._config.batch_size - len(places))
        rows = np.array([place.condition for place in filled])
        prompts = self._prepared.encoded.take(rows)
        written = jax.device_get(
            generate(
                self._model,
                prompts.input_ids,
                prompts.attention_mask,
                max_new_tokens=self._prepared.max_new_tokens,
                key=_keys(self._key, np.array(filled, np.uint32)),
                temperature=self._config.temperature,
                top_p=self._config.top_p,
                eos_token_ids=self._ends,
                pad_token_id=self._padding,
            )
        )
        rows_of_places = zip(places, written.tokens, written.num_tokens, strict=False)
        return {place: self._draw(tokens[:length]) for place, tokens, length in rows_of_places}

    def _draw(self, tokens: Any) -> Draw:
        ids = tokens.tolist()
        decode = self._prepared.tokenizer.decode
        # As it was written: cleaning up would move blanks.
        text = decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        # No file of texts can hold a zero byte.
        return Draw(
            str(text).replace("\0", "\N{REPLACEMENT CHARACTER}"), len(ids), ids[-1] in self._ends
        )


@jax.jit
def _keys(key: jax.Array, places: jax.Array) -> jax.Array:
    """One key for each place `(N, 2)`: of the condition, and from it of the draw."""

    def fold(place: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, place[0]), place[1])

    return jax.vmap(fold)(places)
