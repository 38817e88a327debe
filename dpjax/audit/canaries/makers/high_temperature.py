"""Texts that the base model itself writes, at a high temperature: odd but readable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.audit.canaries.makers.base import Canaries, number_ids
from dpjax.data import Completions, EncodedPrompts, Prompt, encode_prompts
from dpjax.models import CausalLM, generate
from dpjax.privatize import RunKey

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KIND = "high-temperature"
_BATCH = 32
# Texts that are empty or repeat another are drawn again.
_MOST_ROUNDS = 8


def make_high_temperature(
    num_canaries: int,
    *,
    run_key: RunKey,
    tokenizer: PreTrainedTokenizerBase,
    model: CausalLM,
    prompts: Sequence[str],
    temperature: float = 1.0,
    num_tokens: int = 32,
) -> Canaries:
    """Makes answers that the base model draws at a high temperature.

    Tokens are drawn from softmax(logits / temperature), as Mitchell and Andrew 2026
    (arXiv:2606.10481) propose: people can read such canaries, and the model can learn them.

    Args:
        num_canaries: N.
        run_key: the secret of the run, which draws the tokens.
        tokenizer: the checkpoint's.
        model: the base model, before training.
        prompts: public texts like those of the task, taken in turn.
        temperature: positive; the paper takes 0.8 and more.
        num_tokens: of each answer, at least 1. The end of a text does not end it.

    Returns:
        N canaries with records `Completions`; each completion is a secret, and all differ.

    Raises:
        TypeError: the model is no causal language model.
        ValueError: there is no prompt, a number is outside its range, or the model does not write
            enough different texts.
    """
    ids = number_ids(KIND, num_canaries)
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(f"prompts must be texts, at least one, got {prompts!r}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not isinstance(num_tokens, int) or num_tokens < 1:
        raise ValueError(f"num_tokens must be a whole number of at least 1, got {num_tokens!r}")
    pairs: list[tuple[str, str]] = []
    answers: set[str] = set()
    for round_number in range(_MOST_ROUNDS):
        wanted = num_canaries - len(pairs)
        asked = [prompts[(len(pairs) + number) % len(prompts)] for number in range(wanted)]
        key = _generation_key(run_key, round_number)
        written = _write(asked, model, tokenizer, key, temperature, num_tokens)
        for prompt, answer in zip(asked, written, strict=True):
            if answer.strip() and answer not in answers:
                answers.add(answer)
                pairs.append((prompt, answer))
        if len(pairs) == num_canaries:
            break
    else:
        raise ValueError(
            f"the model must write {num_canaries} different texts, got {len(pairs)} in "
            f"{_MOST_ROUNDS} rounds. Raise temperature or num_tokens"
        )
    return Canaries(
        kind=KIND,
        ids=ids,
        records=Completions([prompt for prompt, _ in pairs], [answer for _, answer in pairs]),
        secrets=tuple(answer for _, answer in pairs),
    )


def _write(
    prompts: Sequence[str],
    model: CausalLM,
    tokenizer: PreTrainedTokenizerBase,
    key: jax.Array,
    temperature: float,
    num_tokens: int,
) -> list[str]:
    """One answer to each prompt."""
    numbered = [Prompt(number, text, "") for number, text in enumerate(prompts, start=1)]
    longest = min(int(tokenizer.model_max_length), model.config.max_positions)
    encoded = encode_prompts(numbered, tokenizer, longest)
    texts: list[str] = []
    for start in range(0, len(prompts), _BATCH):
        rows = np.arange(start, start + _BATCH) % len(prompts)
        part: EncodedPrompts = encoded.take(rows)
        result = generate(
            model,
            part.input_ids,
            part.attention_mask,
            max_new_tokens=num_tokens,
            key=jax.random.fold_in(key, start),
            temperature=temperature,
            eos_token_ids=(),
            pad_token_id=0,
        )
        texts += tokenizer.batch_decode(np.asarray(result.tokens), skip_special_tokens=True)
    return texts[: len(prompts)]


def _generation_key(run_key: RunKey, round_number: int) -> jax.Array:
    secret = run_key.audit_bytes(f"canary/{KIND}/round {round_number}", 8)
    words = jnp.asarray(np.frombuffer(secret, dtype=">u4").astype(np.uint32))
    key: jax.Array = jax.random.wrap_key_data(words, impl="threefry2x32")
    return key
