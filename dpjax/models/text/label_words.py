"""A classifier that starts from what its labels are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpjax.models.net.heads import SequenceClassifier
from dpjax.models.net.layer_features import CONSTANT

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


def start_from_language_head(
    model: SequenceClassifier, rows: Sequence[np.ndarray], norm: float
) -> None:
    """Sets the weights of a decoder's new classifier to what its language head says of words.

    With h the last layer's last token and w_c the mean row of the words of label c, less the mean
    over labels, the language head has the logits w_c·h. The features are (u − m)/‖u − m‖, with
    u = h/‖h‖ and m their centre. The logits begin as s w_c·(u − m) t/‖u − m‖ + s w_c·m, with
    s = √E‖h‖² and t = √(1 − ‖m‖²) = √E‖u − m‖² over random words: w_c·h of a text with their
    norms. No record is read, so it costs no ε.

    Args:
        model: whose `feature_layers` end with the last layer of the language model, and whose
            features have their centre.
        rows: of each label, in the order of the logits: the rows `(words, hidden_size)` of the
            language head.
        norm: √E‖h‖² over random words, which `centre_features` returns.

    Raises:
        ValueError: the number of labels is not the model's, or all labels have the same rows.

    Example:
        >>> import dataclasses
        >>> from dpjax.models import parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> config = dataclasses.replace(config, feature_layers=(1,))
        >>> model = SequenceClassifier(config, num_labels=2, rngs=nnx.Rngs(0))
        >>> start_from_language_head(model, [np.ones((1, 8)), np.zeros((2, 8))], norm=1.0)
        >>> model.classifier.kernel[...][:, 0].tolist()  # the centre is still zero
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0]
    """
    if len(rows) != model.num_labels:
        raise ValueError(f"give rows for each of the {model.num_labels} labels, got {len(rows)}")
    means = np.stack([np.mean(np.asarray(of_label, np.float64), axis=0) for of_label in rows])
    directions = means - means.mean(axis=0)
    if not np.any(directions):
        raise ValueError("the words of all labels have the same rows in the language head")
    centre = np.asarray(jax.device_get(model.features.centre[...]), np.float64)
    num_layers, size = centre.shape
    length = np.sqrt(max(0.0, 1.0 - np.sum(centre[-1] ** 2)))
    kernel = model.classifier.kernel
    new = np.zeros(kernel.shape)
    # Features are divided by the root of the number of layers, and a constant follows them.
    new[-1 - size : -1] = norm * length * np.sqrt(num_layers) * directions.T
    new[-1] = norm / CONSTANT * (directions @ centre[-1])
    kernel[...] = jax.device_put(jnp.asarray(new, kernel[...].dtype), kernel[...].sharding)
