"""What is asked of token batches before anything is compiled for them."""

from __future__ import annotations

import numpy as np
from jax.typing import ArrayLike

from dpjax.models.net.heads import CausalLM


def check_causal_lm(model: object) -> None:
    """Refuses a model that does not predict tokens.

    Raises:
        TypeError: naming its type.
    """
    if not isinstance(model, CausalLM):
        raise TypeError(
            f"a {type(model).__name__} has no causal head: it does not predict tokens; load the "
            "checkpoint with load_causal_lm"
        )


def checked_batch(
    input_ids: ArrayLike, attention_mask: ArrayLike, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ids `(N, T)` as int32, and the mask.

    Raises:
        TypeError: ids are not integers, or the mask is not bool.
        ValueError: shapes differ or are not `(N, T)`, or an id is not one of the vocabulary.
    """
    ids = np.asarray(input_ids)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"input_ids must be integers, got {ids.dtype}")
    if ids.ndim != 2:
        raise ValueError(f"input_ids must have shape (N, T), got {ids.shape}")
    mask = checked_mask("attention_mask", attention_mask, ids.shape)
    # An unknown id would become NaN and, through zero weights too, spread to other tokens.
    unknown = ids[(ids < 0) | (ids >= vocab_size)]
    if unknown.size:
        raise ValueError(
            f"input_ids contain {unknown[0]}, the model knows the ids 0 to {vocab_size - 1}, and "
            "padding must be one of them too; is the tokenizer that of the model?"
        )
    return ids.astype(np.int32), mask


def checked_mask(name: str, mask: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """The mask as an array.

    Raises:
        TypeError: it is not bool.
        ValueError: it does not have `shape`, that of the ids.
    """
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise TypeError(f"{name} must be bool, got {array.dtype}; pass {name}.astype(bool)")
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape of input_ids, {shape}, got {array.shape}")
    return array
