"""A classifier that starts from what its labels are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpjax.models.net.heads import SequenceClassifier

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def start_from_words(
    model: SequenceClassifier,
    tokenizer: PreTrainedTokenizerBase,
    words: Sequence[Sequence[str]],
) -> None:
    """Sets the weights of a classifier from words that stand for its labels.

    The weights of label c are s · (μ_c − μ), with μ_c the mean of the features of its words, each
    read as a text of its own, and μ the mean over labels; biases are zero. s gives the words
    themselves a mean margin of 1: the logit of their own label less the mean of all. No record is
    read, so it costs no ε.

    Args:
        model: whose features are ready: a centre comes first.
        tokenizer: of its checkpoint; it must have a padding token.
        words: of each label, in the order of the logits.

    Raises:
        ValueError: a label has no words, the number of labels is not the model's, or all labels
            have the same features.

    Example:
        >>> from dpjax.demo.checkpoint import find_minilm
        >>> from dpjax.models import load_classifier, load_tokenizer
        >>> options = {"label_names": ("money", "health"), "key": jax.random.key(0)}
        >>> model = load_classifier(find_minilm(), num_layers=2, **options)
        >>> start_from_words(model, load_tokenizer(find_minilm()), [["invoice"], ["doctor"]])
        >>> text = load_tokenizer(find_minilm())(["the bill"], return_tensors="np")
        >>> mask = jnp.asarray(text["attention_mask"], bool)
        >>> int(model(jnp.asarray(text["input_ids"]), mask).argmax())
        0
    """
    if len(words) != model.num_labels or not all(words):
        raise ValueError(
            f"give words for each of the {model.num_labels} labels, got {[list(w) for w in words]}"
        )
    texts = [text for of_label in words for text in of_label]
    encoded = tokenizer(texts, padding=True, return_tensors="np")
    graphdef, state = nnx.split(model)

    @jax.jit
    def features_of(state: nnx.State, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state).pool(ids, mask).astype(jnp.float32)

    ids = np.asarray(encoded["input_ids"], np.int32)
    mask = np.asarray(encoded["attention_mask"], bool)
    features = np.asarray(jax.device_get(features_of(state, ids, mask)), np.float64)
    label_of = np.repeat(np.arange(len(words)), [len(of_label) for of_label in words])
    means = np.stack([features[label_of == label].mean(axis=0) for label in range(len(words))])
    directions = means - means.mean(axis=0)
    logits = features @ directions.T
    margin = np.mean(logits[np.arange(len(texts)), label_of] - logits.mean(axis=1))
    if not margin > 0:
        raise ValueError(
            f"the words {[list(w) for w in words]} look the same to the model: give words that "
            "differ between labels"
        )
    kernel = model.classifier.kernel
    new = jnp.asarray(directions.T / margin, kernel[...].dtype)
    kernel[...] = jax.device_put(new, kernel[...].sharding)
    if model.classifier.bias is not None:
        model.classifier.bias[...] = jnp.zeros_like(model.classifier.bias[...])
