"""What greedy decoding would write after each token of given texts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dpjax.audit.scores.token_passes import measure_records
from dpjax.data import LanguageDataset
from dpjax.models import CausalLM


def greedy_tokens(
    model: CausalLM,
    records: LanguageDataset,
    *,
    reference: CausalLM | None = None,
    suspicion: float | None = None,
    batch_size: int = 16,
) -> NDArray[np.int32]:
    """Finds the token that greedy decoding writes at each place, given the record before it.

    If these are the record's own from some place on, greedy decoding writes the rest of the record.
    With a reference, decoding is that of `dpjax.models.generate` with one: it has the last word on
    suspicious tokens (CleanGen: Li et al. 2024, arXiv:2406.12257).

    Args:
        model: a language model.
        records: N encoded records.
        reference: a model that nobody has poisoned; None decodes without one.
        suspicion: α > 0 of `dpjax.models.trusted_tokens`; given with a reference, and only then.
        batch_size: records at a time.

    Returns:
        `(N, T)` int32; zeros in column 0 and without meaning at padding.

    Raises:
        TypeError: a model is no language model.
        ValueError: as for `token_statistics`, or one of reference and suspicion is missing.

    Example:
        >>> from dpjax.data import LanguageDataset
        >>> from dpjax.models import CausalLM, parse_config
        >>> from flax import nnx
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model, ids = CausalLM(config, rngs=nnx.Rngs(0)), np.array([[3, 1, 2]], np.int32)
        >>> counts = np.array([[False, False, True]])
        >>> one = LanguageDataset(ids, ids > 0, truncated=np.zeros(1, bool), loss_mask=counts)
        >>> greedy_tokens(model, one).shape
        (1, 3)
    """
    if (reference is None) != (suspicion is None):
        raise ValueError(
            f"give both reference and suspicion, or none of them, got suspicion={suspicion}"
        )
    tokens, log_probs = measure_records(model, records, _measure_best, batch_size=batch_size)
    if reference is None or suspicion is None:
        return tokens
    instead, expected = measure_records(
        reference, records, _measure_given, batch_size=batch_size, tokens=tokens
    )
    is_suspicious = log_probs - expected >= np.log(np.float32(suspicion))
    return np.where(is_suspicious, instead, tokens)


def _measure_best(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    del tokens
    log_probs = jax.nn.log_softmax(logits)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), jnp.max(log_probs, axis=-1)


def _measure_given(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    log_probs = jax.nn.log_softmax(logits)
    of_given = jnp.take_along_axis(log_probs, tokens[:, None], axis=-1)[:, 0]
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), of_given
