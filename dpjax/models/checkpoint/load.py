"""A Hugging Face checkpoint as a Flax NNX model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpjax.models.checkpoint.config_json import parse_config
from dpjax.models.checkpoint.files import read_config_json
from dpjax.models.checkpoint.fill import Loading, fill
from dpjax.models.checkpoint.generation_config import read_generation_config
from dpjax.models.checkpoint.label_rows import check_label_names, with_head
from dpjax.models.checkpoint.pooling_choice import resolve_pooling
from dpjax.models.checkpoint.tensors import Tensors, are_equal, open_tensors
from dpjax.models.config import TransformerConfig
from dpjax.models.families import Family, Task, family_of
from dpjax.models.net.heads import CausalLM, MaskedLM, SequenceClassifier, TokenClassifier
from dpjax.models.net.pooling import Pooling, append_mean_pooling

_log = logging.getLogger(__name__)
_DEFAULT = Loading()


def load_causal_lm(folder: str | Path, *, loading: Loading = _DEFAULT) -> CausalLM:
    """Load a checkpoint folder (config.json and safetensors) as a language model.

    Raises:
        FileNotFoundError: without config.json or safetensors.
        ValueError: for a family or switch that is not supported, an encoder, and for missing,
            unexpected, damaged or wrongly shaped tensors.

    Example:
        >>> from flax import nnx
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("base")
        >>> from dpjax.models import read_config, save_model
        >>> save_model(CausalLM(read_config("base"), rngs=nnx.Rngs(0)), "lm", source="base")
        >>> load_causal_lm("lm").config.num_layers
        1
    """
    folder = Path(folder)
    # What is saved with the tuned model is checked before it is tuned.
    read_generation_config(folder)
    family, config, tensors = _open_language_model(folder, "causal_lm", loading)
    make = partial(CausalLM, config)
    return fill(make, folder, family, "causal_lm", config, config, tensors, loading)


def load_masked_lm(folder: str | Path, *, loading: Loading = _DEFAULT) -> MaskedLM:
    """Load a checkpoint folder of an encoder with the head that fills in masked tokens.

    Raises:
        FileNotFoundError: without config.json or safetensors.
        ValueError: for a family or switch that is not supported, a decoder, a checkpoint without
            the head, and for missing, unexpected, damaged or wrongly shaped tensors.

    Example:
        >>> from flax import nnx
        >>> from transformers import BertConfig
        >>> sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        >>> BertConfig(vocab_size=9, hidden_size=8, **sizes).save_pretrained("base")
        >>> from dpjax.models import read_config, save_model
        >>> save_model(MaskedLM(read_config("base"), rngs=nnx.Rngs(0)), "mlm", source="base")
        >>> load_masked_lm("mlm").config.num_layers
        1
    """
    folder = Path(folder)
    family, config, tensors = _open_language_model(folder, "masked_lm", loading)
    tensors = _with_one_bias(family, tensors)
    names = {w.hf_name for m in family.head_modules(config, "masked_lm") for w in m.weights()}
    missing = sorted(names - tensors.keys())
    if missing:
        raise ValueError(
            f"{folder} lacks {', '.join(missing)}: its head for masked tokens is not there, and a"
            " new one would know no words. Take a checkpoint that was saved with it"
        )
    return fill(
        partial(MaskedLM, config), folder, family, "masked_lm", config, config, tensors, loading
    )


def load_word_rows(folder: str | Path, tokens: Sequence[int]) -> np.ndarray:
    """Loads the rows of a decoder's language head for some tokens: `(len(tokens), hidden_size)`.

    Float32. Of a tied head, those of the token embedding. Nothing else of the model is loaded.

    Raises:
        FileNotFoundError: without config.json or safetensors.
        ValueError: the family has no such head, or the checkpoint does not hold it.

    Example:
        >>> from flax import nnx
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("base")
        >>> from dpjax.models import read_config, save_model
        >>> save_model(CausalLM(read_config("base"), rngs=nnx.Rngs(0)), "lm", source="base")
        >>> load_word_rows("lm", [5, 9]).shape
        (2, 8)
    """
    folder = Path(folder)
    family, config, tensors = _open_language_model(folder, "causal_lm", _DEFAULT)
    *_, (_, head, _) = family.head("causal_lm").layers
    name = _embedding_name(family, config, "causal_lm") if config.tied_head else f"{head}.weight"
    if name not in tensors:
        raise ValueError(f"{folder} lacks {name}: it has no language head that says words")
    return tensors[name].read()[np.asarray(tokens)].astype(np.float32)


def load_classifier(
    folder: str | Path,
    *,
    label_names: Sequence[str],
    key: jax.Array,
    pooling: Pooling = "auto",
    num_layers: int | None = None,
    feature_layers: Sequence[int] = (),
    loading: Loading = _DEFAULT,
) -> SequenceClassifier:
    """Load a checkpoint folder (config.json and safetensors) as a classifier of texts.

    The head of the checkpoint is used if it has as many labels as `label_names` (its rows
    reordered if config.json names the same labels in another order). Otherwise the head is new:
    weights normal with the standard deviation `initializer_range` of the config, biases 0. The log
    says which.

    Args:
        folder: the checkpoint.
        label_names: the labels in the order of the logits.
        key: a JAX key for a new head.
        pooling: "first" reads the text as transformers does: from the first token of an encoder,
            the last of a decoder; "mean" appends a layer that averages the tokens (see
            `append_mean_pooling`); "auto" averages if the checkpoint is a sentence encoder that
            does.
        num_layers: keep only this many layers, from the bottom (Sajjad et al. 2020, "Poor Man's
            BERT", top-layer dropping); None keeps all.
        feature_layers: read the text from these layers, of which 1 is the lowest, and drop those
            above: see `LayerFeatures`. Its centre is zero unless the checkpoint brings one;
            `centre_features` sets it. Empty reads it as `pooling` says, or as the checkpoint does.
        loading: dtypes, attention, loops over layers, placement.

    Raises:
        FileNotFoundError: without config.json or safetensors.
        ValueError: for a family or switch that is not supported, fewer than two labels, more layers
            than there are, and for missing, unexpected, damaged or wrongly shaped tensors.

    Example:
        >>> from flax import nnx
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("base")
        >>> from dpjax.models import read_config, save_model
        >>> save_model(CausalLM(read_config("base"), rngs=nnx.Rngs(0)), "lm", source="base")
        >>> load_classifier("lm", label_names=("no", "yes"), key=jax.random.key(0)).num_labels
        2
    """
    pooling = resolve_pooling(Path(folder), pooling)
    task: Task = "sequence_classification"
    model = _load_labelled(
        SequenceClassifier, task, folder, label_names, key, num_layers, loading, feature_layers
    )
    reads_mean = pooling == "mean" and not model.config.feature_layers
    return append_mean_pooling(model) if reads_mean else model


def load_token_classifier(
    folder: str | Path,
    *,
    label_names: Sequence[str],
    key: jax.Array,
    loading: Loading = _DEFAULT,
) -> TokenClassifier:
    """Load a checkpoint folder as a classifier of tokens; everything as in `load_classifier`.

    Example:
        >>> from flax import nnx
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("base")
        >>> from dpjax.models import read_config, save_model
        >>> save_model(CausalLM(read_config("base"), rngs=nnx.Rngs(0)), "lm", source="base")
        >>> tags = ("O", "NAME", "PLACE")
        >>> load_token_classifier("lm", label_names=tags, key=jax.random.key(0)).num_labels
        3
    """
    return _load_labelled(
        TokenClassifier, "token_classification", folder, label_names, key, None, loading
    )


def _open_language_model(
    folder: Path, task: Task, loading: Loading
) -> tuple[Family, TransformerConfig, Tensors]:
    """The family, the configuration and the tensors of a checkpoint with a language head."""
    raw = read_config_json(folder)
    config = loading.apply_to(parse_config(raw))
    family = family_of(raw["model_type"])
    family.head(task)
    tensors = _by_table_name(folder, family, task, open_tensors(folder))
    if config.tied_head:
        tensors, is_tied = _tied(family, config, task, tensors)
        config = dataclasses.replace(config, tied_head=is_tied)
    return family, config, tensors


def _load_labelled(
    make: Callable[..., Any],
    task: Task,
    folder: str | Path,
    label_names: Sequence[str],
    key: jax.Array,
    num_layers: int | None,
    loading: Loading,
    feature_layers: Sequence[int] = (),
) -> Any:
    """A classifier of the class `make`, with the checkpoint's head or a new one."""
    folder = Path(folder)
    check_label_names(label_names)
    raw = read_config_json(folder)
    whole = parse_config(raw)
    family = family_of(raw["model_type"])
    family.head(task)
    reduced = with_features(shortened(whole, num_layers), feature_layers)
    config = loading.apply_to(reduced)
    tensors = _by_table_name(folder, family, task, open_tensors(folder))
    if config.feature_layers and not whole.feature_layers:
        # A head that was trained on other features says nothing about these.
        unread = [name for _, name, _ in family.head(task).layers]
        tensors = {n: t for n, t in tensors.items() if n.rpartition(".")[0] not in unread}
    whole = dataclasses.replace(whole, feature_layers=config.feature_layers)
    tensors = with_head(tensors, raw, family, task, config, label_names, key)
    make = partial(make, config, num_labels=len(label_names))
    return fill(make, folder, family, task, whole, config, tensors, loading)


def shortened(config: TransformerConfig, num_layers: int | None) -> TransformerConfig:
    """Returns the configuration with the lowest `num_layers` layers alone; None keeps all."""
    if num_layers is None or num_layers == config.num_layers:
        return config
    if not 1 <= num_layers < config.num_layers:
        raise ValueError(
            f"num_layers={num_layers}: the checkpoint has {config.num_layers} layers, of which "
            "between 1 and all can be kept"
        )
    if config.averaging_layer:
        raise ValueError(
            f"num_layers={num_layers}: the last layer of this checkpoint was appended to average "
            "the tokens, which dropping it would undo; keep all"
        )
    return dataclasses.replace(
        config,
        num_layers=num_layers,
        layer_types=config.layer_types[:num_layers],
        rope_layers=config.rope_layers[:num_layers],
    )


def with_features(config: TransformerConfig, layers: Sequence[int]) -> TransformerConfig:
    """Returns the configuration that reads features of some layers, without those above them.

    Args:
        config: of the checkpoint.
        layers: that are asked for; none leaves it as the checkpoint has it.
    """
    if not layers or tuple(layers) == config.feature_layers:
        return config
    if config.feature_layers:
        raise ValueError(
            f"the checkpoint reads features of the layers {list(config.feature_layers)}: leave "
            f"features.layers out, got {list(layers)}"
        )
    # Checks them, while all layers are there.
    config = dataclasses.replace(config, feature_layers=tuple(layers))
    return shortened(config, max(1, *layers))


def _by_table_name(folder: Path, family: Family, task: Task, stored: Tensors) -> Tensors:
    """The tensors under the names of the family's table, ignored ones dropped."""
    left_out = [name for name in stored if family.is_left_out(name)]
    if left_out:
        parts = sorted({name.removeprefix("model.").partition(".")[0] for name in left_out})
        _log.warning(
            "%s: the text model alone is read; %d tensors of %s are left out",
            folder,
            len(left_out),
            ", ".join(parts),
        )
    tensors: Tensors = {}
    for name, tensor in stored.items():
        table_name = family.table_name(name, task)
        if table_name in tensors:
            raise ValueError(f"{folder}: the tensor {table_name} occurs under two names")
        if table_name is not None:
            tensors[table_name] = tensor
    return tensors


def _tied(
    family: Family, config: TransformerConfig, task: Task, tensors: Tensors
) -> tuple[Tensors, bool]:
    """The tensors of a model whose config ties head and embedding, and whether they are tied.

    As in transformers: a head that differs from the embedding is used, and either may be missing.
    """
    embedding = _embedding_name(family, config, task)
    *_, (_, theirs, _) = family.head(task).layers
    head = f"{theirs}.weight"
    if head not in tensors:
        return tensors, True
    if embedding in tensors and not are_equal(tensors[embedding], tensors[head]):
        _log.warning(
            "config.json ties %s to %s, but the checkpoint holds two that differ: both are used, "
            "untied",
            head,
            embedding,
        )
        return tensors, False
    others = {name: tensor for name, tensor in tensors.items() if name != head}
    return {embedding: tensors[head]} | others, True


def _embedding_name(family: Family, config: TransformerConfig, task: Task) -> str:
    (name,) = (
        weight.hf_name
        for weight in family.weight_names(config, task)
        if weight.path == ("transformer", "embed_tokens", "embedding")
    )
    return name


def _with_one_bias(family: Family, tensors: Tensors) -> Tensors:
    """The tensors with the vocabulary's bias under one name; transformers may hold it under two.

    Its decoder computes with the bias of its own, to which the other one is tied.
    """
    head = family.head("masked_lm")
    used, table_name = f"{head.layers[-1][1]}.bias", f"{head.vocab_bias}.bias"
    if used == table_name or used not in tensors:
        return tensors
    others = {name: tensor for name, tensor in tensors.items() if name != used}
    return others | {table_name: tensors[used]}
