"""What differs between model families: reading config.json and naming the weights.

A family is added by one entry of `FAMILIES`. Its table of names is read in both directions: by the
loader and LoRA from Hugging Face names to parameters, by the saver back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from dpjax.models.config import EncoderConfig
from dpjax.models.suggest import did_you_mean

# Kind of module -> (name of our parameter, name in the checkpoint, whether the axes are swapped).
# torch keeps linear weights as (out, in), Flax as (in, out).
_PARAMETERS = {
    "linear": (("kernel", "weight", True), ("bias", "bias", False)),
    "norm": (("scale", "weight", False), ("bias", "bias", False)),
    "embedding": (("embedding", "weight", False),),
}


@dataclass(frozen=True)
class ModuleName:
    """One module: its path in `SequenceClassifier`, its path in transformers, what it is."""

    path: tuple[str | int, ...]
    hf_name: str
    kind: Literal["linear", "norm", "embedding"]


@dataclass(frozen=True)
class WeightName:
    """One tensor: its path in the nested dict of parameters, its checkpoint name, its layout."""

    path: tuple[str | int, ...]
    hf_name: str
    transposed: bool


@dataclass(frozen=True)
class Family:
    """A model family of transformers.

    `base_prefix` starts the names of everything below the head and is missing in checkpoints of the
    bare encoder; `renamed` maps old endings of weight names to present ones; weights whose name
    (without prefix) starts with one of `ignored` are buffers or heads of other tasks.
    """

    architecture: str
    read_config: Callable[[Mapping[str, Any]], EncoderConfig]
    module_names: Callable[[EncoderConfig], Iterator[ModuleName]]
    base_prefix: str
    head_name: str
    renamed: Mapping[str, str]
    ignored: tuple[str, ...]

    def weight_names(self, config: EncoderConfig) -> tuple[WeightName, ...]:
        """Every tensor of a checkpoint of this family with a classification head."""
        return tuple(
            WeightName((*module.path, ours), f"{module.hf_name}.{theirs}", transposed)
            for module in self.module_names(config)
            for ours, theirs, transposed in _PARAMETERS[module.kind]
        )

    def table_name(self, name: str) -> str | None:
        """The name in the table for a name found in a checkpoint; None for ignored tensors."""
        for old, new in self.renamed.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        bare = name.removeprefix(self.base_prefix)
        if bare.startswith(self.ignored):
            return None
        return bare if bare.startswith(f"{self.head_name}.") else self.base_prefix + bare


def family_of(model_type: str) -> Family:
    """The family named by `model_type` of a config.json; ValueError for an unsupported one."""
    if model_type not in FAMILIES:
        raise ValueError(
            f"model_type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}."
            + did_you_mean(str(model_type), FAMILIES)
        )
    return FAMILIES[model_type]


_BERT_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


# Our own key in config.json: the last layer was appended for pooling and is not trained.
AVERAGING_LAYER = "dpjax_averaging_layer"


def _read_bert_config(raw: Mapping[str, Any]) -> EncoderConfig:
    _require(raw, "position_embedding_type", "absolute")
    _require(raw, "is_decoder", False)
    _require(raw, "add_cross_attention", False)
    _require(raw, "quantization_config", None)
    activation = raw.get("hidden_act", "gelu")
    if activation not in _BERT_ACTIVATIONS:
        raise ValueError(
            f"config.json: hidden_act {activation!r} is not supported; "
            f"supported: {', '.join(_BERT_ACTIVATIONS)}"
        )
    return EncoderConfig(
        model_type="bert",
        vocab_size=_size(raw, "vocab_size"),
        hidden_size=_size(raw, "hidden_size"),
        num_layers=_size(raw, "num_hidden_layers"),
        num_heads=_size(raw, "num_attention_heads"),
        intermediate_size=_size(raw, "intermediate_size"),
        max_positions=_size(raw, "max_position_embeddings"),
        type_vocab_size=_size(raw, "type_vocab_size"),
        layer_norm_eps=raw.get("layer_norm_eps", 1e-12),
        activation=_BERT_ACTIVATIONS[activation],
        initializer_range=raw.get("initializer_range", 0.02),
        averaging_layer=raw.get(AVERAGING_LAYER, False) is True,
    )


def _require(raw: Mapping[str, Any], switch: str, supported: Any) -> None:
    """Refuse a switch of config.json whose other values would change the computation."""
    value = raw.get(switch, supported)
    if value != supported:
        raise ValueError(
            f"config.json: {switch} = {value!r} is not supported for this family, "
            f"only {supported!r} is"
        )


def _size(raw: Mapping[str, Any], name: str) -> int:
    if not isinstance(raw.get(name), int):
        raise ValueError(
            f"config.json: {name} must be a whole number, "
            + (f"got {raw[name]!r}" if name in raw else "but it is missing")
        )
    return raw[name]


def _bert_modules(config: EncoderConfig) -> Iterator[ModuleName]:
    embeddings = ("encoder", "embeddings")
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        yield ModuleName((*embeddings, name), f"bert.embeddings.{name}", "embedding")
    yield ModuleName((*embeddings, "LayerNorm"), "bert.embeddings.LayerNorm", "norm")
    for index in range(config.num_layers):
        path, name = ("encoder", "layers", index), f"bert.encoder.layer.{index}"
        attention = (*path, "attention")
        yield ModuleName((*attention, "query"), f"{name}.attention.self.query", "linear")
        yield ModuleName((*attention, "key"), f"{name}.attention.self.key", "linear")
        yield ModuleName((*attention, "value"), f"{name}.attention.self.value", "linear")
        yield ModuleName((*attention, "dense"), f"{name}.attention.output.dense", "linear")
        yield ModuleName((*attention, "LayerNorm"), f"{name}.attention.output.LayerNorm", "norm")
        yield ModuleName((*path, "intermediate"), f"{name}.intermediate.dense", "linear")
        yield ModuleName((*path, "output"), f"{name}.output.dense", "linear")
        yield ModuleName((*path, "LayerNorm"), f"{name}.output.LayerNorm", "norm")
    yield ModuleName(("encoder", "pooler"), "bert.pooler.dense", "linear")
    yield ModuleName(("classifier",), "classifier", "linear")


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "bert": Family(
            architecture="BertForSequenceClassification",
            read_config=_read_bert_config,
            module_names=_bert_modules,
            base_prefix="bert.",
            head_name="classifier",
            renamed={
                "LayerNorm.gamma": "LayerNorm.weight",
                "LayerNorm.beta": "LayerNorm.bias",
            },
            # "cls." holds the heads of masked-language and next-sentence pretraining.
            ignored=("embeddings.position_ids", "embeddings.token_type_ids", "cls."),
        ),
    }
)
