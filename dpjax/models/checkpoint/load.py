"""A Hugging Face checkpoint as a Flax NNX model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpjax.models.checkpoint.config_json import parse_config
from dpjax.models.checkpoint.files import read_config_json
from dpjax.models.checkpoint.generation_config import read_generation_config
from dpjax.models.checkpoint.label_rows import check_label_names
from dpjax.models.checkpoint.new_head import with_head
from dpjax.models.checkpoint.pooling_choice import resolve_pooling
from dpjax.models.checkpoint.tensors import Tensor, Tensors, are_equal, open_tensors
from dpjax.models.config import TransformerConfig
from dpjax.models.families import Family, Task, WeightName, family_of
from dpjax.models.net.heads import CausalLM, Model, SequenceClassifier, TokenClassifier
from dpjax.models.net.module_paths import LAYERS, path_in_model
from dpjax.models.net.pooling import Pooling, append_mean_pooling

_log = logging.getLogger(__name__)

ParamDtype = Literal["float32", "bfloat16"]
# From a parameter's path, dotted, and its shape to where its array goes.
Placement = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


@dataclasses.dataclass(frozen=True)
class Loading:
    """How a checkpoint is loaded; none of it changes what the model computes beyond rounding.

    Attributes:
        param_dtype: of the parameters; bfloat16 is for weights that are not trained themselves.
        dtype: of activations.
        attention: see `TransformerConfig`.
        scan_layers: see `TransformerConfig`.
        rematerialise: see `TransformerConfig`.
        placement: sharding of each parameter by dotted path and shape; default: the first device.

    Example:
        >>> Loading(param_dtype="bfloat16", scan_layers=True).dtype
        'float32'
    """

    param_dtype: ParamDtype = "float32"
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["einsum", "cudnn"] = "einsum"
    scan_layers: bool = False
    rematerialise: bool = False
    placement: Placement | None = None

    def __post_init__(self) -> None:
        if self.param_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"param_dtype must be float32 or bfloat16, got {self.param_dtype!r}")

    def apply_to(self, config: TransformerConfig) -> TransformerConfig:
        """Returns the configuration of a model that is loaded in this way."""
        return dataclasses.replace(
            config,
            dtype=self.dtype,
            attention=self.attention,
            scan_layers=self.scan_layers,
            rematerialise=self.rematerialise,
        )


def load_causal_lm(folder: str | Path, *, loading: Loading = Loading()) -> CausalLM:
    """Load a checkpoint folder (config.json and safetensors) as a language model.

    Raises:
        FileNotFoundError: without config.json or safetensors.
        ValueError: for a family or switch that is not supported, an encoder, and for missing,
            unexpected, damaged or wrongly shaped tensors.

    Example:
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("base")
        >>> from dpjax.models import read_config, save_model
        >>> save_model(CausalLM(read_config("base"), rngs=nnx.Rngs(0)), "lm", source="base")
        >>> load_causal_lm("lm").config.num_layers
        1
    """
    folder = Path(folder)
    raw = read_config_json(folder)
    config = loading.apply_to(parse_config(raw))
    family = family_of(raw["model_type"])
    family.head("causal_lm")
    # What is saved with the tuned model is checked before it is tuned.
    read_generation_config(folder)
    tensors = _by_table_name(folder, family, "causal_lm", open_tensors(folder))
    if config.tied_head:
        tensors, is_tied = _tied(family, config, tensors)
        config = dataclasses.replace(config, tied_head=is_tied)
    make = partial(CausalLM, config)
    return _filled(make, folder, family, "causal_lm", config, config, tensors, loading)


def load_classifier(
    folder: str | Path,
    *,
    label_names: Sequence[str],
    key: jax.Array,
    pooling: Pooling = "auto",
    num_layers: int | None = None,
    feature_layers: Sequence[int] = (),
    loading: Loading = Loading(),
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
    loading: Loading = Loading(),
) -> TokenClassifier:
    """Load a checkpoint folder as a classifier of tokens; everything as in `load_classifier`.

    Example:
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
    return _filled(make, folder, family, task, whole, config, tensors, loading)


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
    tensors: Tensors = {}
    for name, tensor in stored.items():
        table_name = family.table_name(name, task)
        if table_name in tensors:
            raise ValueError(f"{folder}: the tensor {table_name} occurs under two names")
        if table_name is not None:
            tensors[table_name] = tensor
    return tensors


def _tied(family: Family, config: TransformerConfig, tensors: Tensors) -> tuple[Tensors, bool]:
    """The tensors of a model whose config ties head and embedding, and whether they are tied.

    As in transformers: a head that differs from the embedding is used, and either may be missing.
    """
    (embedding,) = (
        weight.hf_name
        for weight in family.weight_names(config, "causal_lm")
        if weight.path == ("transformer", "embed_tokens", "embedding")
    )
    ((_, theirs, _),) = family.head("causal_lm").layers
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


def _filled(
    make: Callable[..., Model],
    folder: Path,
    family: Family,
    task: Task,
    whole: TransformerConfig,
    config: TransformerConfig,
    tensors: Tensors,
    loading: Loading,
) -> Any:
    """The model with every abstract parameter replaced by its tensor, one at a time.

    All that can be refused is refused before anything is read.
    """
    expected = {weight.hf_name for weight in family.weight_names(whole, task)}
    _check_names(folder, expected=expected, stored=tensors)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(rngs=SameKey())))
    parameters = nnx.to_pure_dict(state)
    grouped: dict[tuple, list[WeightName]] = {}
    for weight in family.weight_names(config, task):
        grouped.setdefault(path_in_model(config, weight.path), []).append(weight)
    for path, weights in grouped.items():
        stacked = config.scan_layers and path[:2] == LAYERS
        shape = _owner(parameters, path)[path[-1]].shape[stacked:]
        for weight in weights:
            implied = shape[::-1] if weight.transposed else shape
            tensors[weight.hf_name].check(weight.hf_name, implied, "config.json implies")
    for path, weights in grouped.items():
        owner, leaf = _owner(parameters, path), path[-1]
        if config.scan_layers and path[:2] == LAYERS:
            value = np.empty(owner[leaf].shape, jnp.dtype(loading.param_dtype))
            for row, weight in zip(value, weights, strict=True):
                row[...] = _read(weight, tensors[weight.hf_name], loading)
        else:
            value = _read(weights[0], tensors[weights[0].hf_name], loading)
        # Waits: until a copy is done, JAX holds what it is made from, and more would pile up.
        owner[leaf] = jax.block_until_ready(_placed(value, path, loading))
        row = value = None
    return nnx.merge(graphdef, parameters)


def _placed(value: np.ndarray, path: tuple, loading: Loading) -> jax.Array:
    if loading.placement is None:
        return jax.device_put(value)
    sharding = loading.placement(".".join(map(str, path)), value.shape)
    # Of several processes all have the same value: it need not be sent to be compared.
    return jax.make_array_from_callback(value.shape, sharding, lambda part: value[part])


class SameKey:
    """In the place of `nnx.Rngs` where only shapes are asked for.

    Counting draws while they are traced takes a second for a model of 30 layers.
    """

    def params(self) -> jax.Array:
        """Returns a key."""
        return jax.random.key(0)


def _owner(parameters: dict[str, Any], path: tuple) -> dict[Any, Any]:
    """The innermost dict around the parameter at a path."""
    for part in path[:-1]:
        parameters = parameters[part]
    return parameters


def _check_names(folder: Path, *, expected: Iterable[str], stored: Iterable[str]) -> None:
    missing, unexpected = set(expected) - set(stored), set(stored) - set(expected)
    problems = [
        f"{kind} {', '.join(sorted(names))}"
        for kind, names in (("missing:", missing), ("unexpected:", unexpected))
        if names
    ]
    if problems:
        raise ValueError(
            f"the tensors in {folder} do not fit its config.json; " + "; ".join(problems)
        )


def _read(weight: WeightName, tensor: Tensor, loading: Loading) -> np.ndarray:
    """The tensor in our layout and in the dtype that parameters are to have."""
    value = tensor.read().astype(jnp.dtype(loading.param_dtype), copy=False)
    return value.T if weight.transposed else value
