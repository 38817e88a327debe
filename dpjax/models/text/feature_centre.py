"""The centre of features, from texts of random words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpjax.models.net.heads import SequenceClassifier
from dpjax.models.net.layer_features import to_unit_norm
from dpjax.models.text.random_texts import random_texts, random_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LENGTHS = (8, 16, 32)
_TEXTS_PER_LENGTH = 128
_TEXTS_AT_ONCE = 32
_SEED = 0

# Texts -> token ids (count, T) int32 and attention mask (count, T) bool.
Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


def centre_features(
    model: SequenceClassifier, tokenizer: PreTrainedTokenizerBase, encode: Encode | None = None
) -> np.ndarray:
    """Sets the centre of a classifier's features to their mean over texts of random words.

    What all texts have in common says nothing about a label, but would take most of the clip norm:
    without it a gradient is about how its text differs. No record is read, so it costs no ε, and
    every call finds the same.

    Args:
        model: with `feature_layers`.
        tokenizer: of its checkpoint.
        encode: makes tokens and mask of texts, where records are not texts alone: with a template
            around them, what every record shares is in the centre too.

    Returns:
        The root mean square norm `(L,)` float64 of what each layer holds of these texts, before
        it is scaled to norm 1.

    Raises:
        ValueError: the model reads no features of layers, or the tokenizer has no word.

    Example:
        >>> import dataclasses
        >>> from dpjax.demo.checkpoint import find_minilm
        >>> from dpjax.models import load_classifier, load_tokenizer
        >>> options = {"label_names": ("no", "yes"), "key": jax.random.key(0)}
        >>> model = load_classifier(find_minilm(), feature_layers=(1, 2), **options)
        >>> norms = centre_features(model, load_tokenizer(find_minilm()))
        >>> model.features.centre.shape
        (2, 384)
    """
    if not model.config.feature_layers:
        raise ValueError("the model reads no features of layers: load it with feature_layers")
    graphdef, state = nnx.split(model)

    @jax.jit
    def totals(state: nnx.State, ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        running = nnx.merge(graphdef, state)
        read = running.features.read(running.layer_states(ids, mask), mask)
        squares = jnp.sum(jnp.square(read), axis=(0, -1))
        return jnp.sum(to_unit_norm(read), axis=0), squares

    rng = np.random.default_rng(_SEED)
    longest = model.config.max_positions
    sums, count = [], 0
    for length in sorted({min(length, longest) for length in _LENGTHS}):
        if encode is None:
            ids = random_texts(tokenizer, rng, _TEXTS_PER_LENGTH, length)
            mask = np.ones(ids.shape, bool)
        else:
            ids, mask = encode(random_words(tokenizer, rng, _TEXTS_PER_LENGTH, length))
        for start in range(0, len(ids), _TEXTS_AT_ONCE):
            end = start + _TEXTS_AT_ONCE
            sums.append(totals(state, ids[start:end], mask[start:end]))
        count += len(ids)
    units, squares = jax.tree.map(lambda *parts: sum(parts) / count, *jax.device_get(sums))
    centre = model.features.centre
    mean = jnp.asarray(units, centre[...].dtype)
    centre[...] = jax.device_put(mean, centre[...].sharding)
    return np.sqrt(np.asarray(squares, np.float64))
