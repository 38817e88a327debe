"""Adapters that look where texts differ: A from principal components of random texts.

The inputs of a layer have a large mean, the same for every text. Through a random A it reaches
every gradient: it uses up the clip norm and tells nothing. What is left when it is removed lies
mostly in a few directions, while noise is equal in all. Both are found without a private record,
from texts of random words.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from flax import nnx

from dpjax.models.adapters.layers.linear import LoraLinear
from dpjax.models.net.heads import Model, SequenceClassifier
from dpjax.models.net.module_paths import get_module, set_module
from dpjax.models.text.random_texts import random_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Short, middling and long sentences; their principal components changed little with more texts.
_LENGTHS = (8, 16, 24)
_TEXTS_PER_LENGTH = 256
_TEXTS_AT_ONCE = 128


def start_a_at_principal_directions(
    model: Model, tokenizer: PreTrainedTokenizerBase, *, key: jax.Array
) -> None:
    """Replace every adapter's A by directions in which its layer's inputs differ between texts.

    With x̄ the mean over the tokens of a text of a layer's input `(in,)`, and m the mean of x̄ over
    texts of random words, the columns of A are the first r principal components of x̄ − m, made
    orthogonal to m, of unit length: the adapter sees nothing of m, and as much as r directions can
    of what tells texts apart. The idea is that of EVA (Paischer et al. 2024, "Parameter Efficient
    Fine-tuning via Explained Variance Adaptation", arXiv:2410.07170), which takes the texts that
    are tuned on; here no text is private, so that A costs no ε.

    Args:
        model: with adapters whose B is still zero.
        tokenizer: its words, the more frequent the lower their number is taken to be.
        key: a JAX key for the random texts.

    Raises:
        ValueError: the model has no adapters, or a rank exceeds what the layer's inputs span.

    Example:
        >>> import itertools
        >>> from dpjax.models import LoraConfig, add_lora, parse_config
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import GPT2Config, PreTrainedTokenizerFast
        >>> small = GPT2Config(n_embd=8, n_layer=1, n_head=2)
        >>> config = parse_config(small.to_dict())
        >>> model = SequenceClassifier(config, num_labels=2, rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
        >>> pairs = map("".join, itertools.product("bcdfghj", "aeiou"))
        >>> vocabulary = {"[UNK]": 0} | {word: index for index, word in enumerate(pairs, start=1)}
        >>> words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
        >>> start_a_at_principal_directions(model, tokenizer, key=jax.random.key(1))
        >>> a = model.transformer.layers[0].self_attn.o_proj.lora_a[...]
        >>> bool(jnp.allclose(a.T @ a, jnp.eye(2), atol=1e-5))
        True
    """
    if model.config.scan_layers:
        raise ValueError("principal directions need layers of their own: scan_layers=False")
    adapted = [get_module(model, path) for path in _adapted_paths(model)]
    if not adapted:
        raise ValueError("the model has no adapters whose A could start anywhere: call add_lora")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    longest = model.config.max_positions
    means: list[list[np.ndarray]] = [[] for _ in adapted]
    for length in sorted({min(length, longest) for length in _LENGTHS}):
        ids = random_texts(tokenizer, rng, _TEXTS_PER_LENGTH, length)
        for layer_means, rows in zip(means, _text_means(model, ids), strict=True):
            layer_means.append(rows)
    for layer, rows in zip(adapted, means, strict=True):
        layer.lora_a[...] = jnp.asarray(_directions(np.concatenate(rows), layer.lora_a.shape[1]))


class _Recorder:
    """Stands in for a layer and notes what it is called with for one text, averaged over tokens."""

    def __init__(self, layer: LoraLinear) -> None:
        self._layer = layer
        self.text_mean: jax.Array | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        # The pooler gets one token, without an axis of tokens.
        self.text_mean = x.mean(0) if x.ndim == 2 else x
        return self._layer(x)


def _text_means(model: Model, ids: np.ndarray) -> list[np.ndarray]:
    """For every adapted layer `(texts, in)` float32: its input, averaged over a text's tokens."""
    graphdef, state = nnx.split(model)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def run(state: nnx.State, ids: jax.Array) -> list[jax.Array]:
        running = nnx.merge(graphdef, state)
        recorders = []
        for path in _adapted_paths(running):
            recorders.append(_Recorder(get_module(running, path)))
            set_module(running, path, recorders[-1])
        mask = jnp.ones(ids.shape, bool)
        if isinstance(running, SequenceClassifier):
            running.pool(ids, mask)
        else:
            running.hidden_states(ids, mask)
        return [recorder.text_mean for recorder in recorders]

    parts = [run(state, ids[i : i + _TEXTS_AT_ONCE]) for i in range(0, len(ids), _TEXTS_AT_ONCE)]
    return [np.concatenate(layer_parts) for layer_parts in zip(*jax.device_get(parts), strict=True)]


def _adapted_paths(model: Model) -> list[tuple[str | int, ...]]:
    # A language head is read as a matrix: its A stays random.
    return [
        path
        for path, node in nnx.iter_graph(model)
        if isinstance(node, LoraLinear) and path != ("lm_head",)
    ]


def _directions(text_means: np.ndarray, rank: int) -> np.ndarray:
    """`(in, rank)` float32 orthonormal columns: the principal components, without the mean."""
    rows = np.float64(text_means)
    mean = rows.mean(axis=0)
    unit = mean / np.linalg.norm(mean)
    centred = rows - mean
    # Components of what is orthogonal to the mean stay orthogonal to it.
    centred -= np.outer(centred @ unit, unit)
    size = rows.shape[1]
    possible = min(size, len(rows)) - 1
    if rank > possible:
        raise ValueError(
            f"lora rank {rank}: inputs of {size} numbers differ between texts in {possible} "
            "directions besides their mean; lower the rank, or start A at random"
        )
    _, components = scipy.linalg.eigh(
        centred.T @ centred, subset_by_index=[size - rank, size - 1], check_finite=True
    )
    components = components[:, ::-1]
    # An eigenvector has no sign of its own: the largest entry is made positive.
    largest = np.abs(components).argmax(axis=0)
    return np.float32(components * np.sign(components[largest, np.arange(rank)]))
