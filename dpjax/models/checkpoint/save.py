"""A tuned model as a folder that transformers opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from dpjax.models.checkpoint.config_json import read_text_config_json
from dpjax.models.checkpoint.files import (
    CONFIG,
    FEATURE_LAYERS,
    FEATURES_BODY,
    FEATURES_TYPE,
    GENERATION_CONFIG,
    TOKENIZER_FILES,
)
from dpjax.models.checkpoint.generation_config import end_token_ids, read_generation_config
from dpjax.models.checkpoint.label_rows import check_label_names
from dpjax.models.checkpoint.tensors import Tensor, spelled
from dpjax.models.checkpoint.tokenizer import has_tokenizer, load_tokenizer
from dpjax.models.checkpoint.write_tensors import SHARD_BYTES, write_tensors
from dpjax.models.families import AVERAGING_LAYER, LANGUAGE_TASKS, Family, WeightName, family_of
from dpjax.models.net.heads import CausalLM, Model, SequenceClassifier, task_of
from dpjax.models.net.module_paths import get_module, path_in_model
from dpjax.models.net.quantised import QuantisedLinear
from dpjax.models.net.weight_codes import decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def save_model(
    model: Model,
    out: str | Path,
    *,
    source: str | Path,
    label_names: Sequence[str] = (),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json, safetensors and the tokenizer.

    transformers' from_pretrained(out) gives equal logits. Weights keep their dtype; those that are
    quantised are written as the numbers that their codes stand for, in the dtype of the token
    embedding. A classifier with `feature_layers` gets a model_type of its own: `load_classifier`
    opens it, transformers has no such model and refuses it. Of a checkpoint for texts and pictures
    the text model alone is written, as a model of its own family.

    Args:
        model: without adapters; `merged_copy` makes such a model of one with adapters.
        out: the folder to write; made if it does not exist.
        source: the checkpoint the model was loaded from: its config.json is carried over with the
            labels and the architecture replaced, its tokenizer files are copied.
        label_names: the labels of a classifier in the order of the logits.
        shard_bytes: the most bytes of weights in one file; more go into several with an index.

    Raises:
        ValueError: if the model has adapters, the number of labels is not the model's, or both
            folders are the same.

    Example:
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("base")
        >>> from dpjax.models import read_config
        >>> save_model(CausalLM(read_config("base"), rngs=nnx.Rngs(0)), "lm", source="base")
        >>> sorted(path.name for path in Path("lm").iterdir())
        ['config.json', 'generation_config.json', 'model.safetensors']
    """
    source, out = Path(source), Path(out)
    if model.lora is not None:
        raise ValueError(
            "the model has LoRA adapters; save merged_copy(model), or the adapters alone with "
            "save_adapter"
        )
    _check_labels(model, label_names)
    if source.resolve() == out.resolve():
        raise ValueError(f"{out} is the folder of the original checkpoint; save to another one")
    out.mkdir(parents=True, exist_ok=True)
    parameters = nnx.to_pure_dict(nnx.split(model)[1])
    config = read_text_config_json(source)
    family = family_of(config["model_type"])
    _write_weights(model, parameters, family, out, shard_bytes)
    tokenizer = None
    if model.config.causal and has_tokenizer(source):
        tokenizer = load_tokenizer(source, needs_padding=False)
    _write_config(model, parameters, config, family, out, label_names, tokenizer)
    if isinstance(model, CausalLM):
        _write_generation_config(source, out, tokenizer)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _check_labels(model: Model, label_names: Sequence[str]) -> None:
    if task_of(model) in LANGUAGE_TASKS:
        if label_names:
            raise ValueError(f"a language model has no labels, got {list(label_names)}")
        return
    check_label_names(label_names)
    if len(label_names) != model.num_labels:
        raise ValueError(f"the model has {model.num_labels} labels, got {len(label_names)} names")


def _write_config(
    model: Model,
    parameters: dict[str, Any],
    config: dict[str, Any],
    family: Family,
    out: Path,
    label_names: Sequence[str],
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    layers = model.config.num_layers
    # "torch_dtype" is the old spelling of "dtype"; the others would describe an earlier task.
    for name in ("torch_dtype", "num_labels", "_num_labels", "problem_type"):
        config.pop(name, None)
    config["architectures"] = [family.head(task_of(model)).architecture]
    config["dtype"] = parameters["transformer"]["embed_tokens"]["embedding"].dtype.name
    for name in ("num_hidden_layers", "n_layer", "n_layers"):
        if name in config:
            config[name] = layers
    for name in ("layer_types", "no_rope_layers"):
        if config.get(name):
            config[name] = config[name][:layers]
    if label_names:
        config["id2label"] = {str(row): name for row, name in enumerate(label_names)}
        config["label2id"] = {name: row for row, name in enumerate(label_names)}
    if model.config.averaging_layer:
        config[AVERAGING_LAYER] = True
    if model.config.feature_layers:
        config |= {"model_type": FEATURES_TYPE, FEATURES_BODY: config["model_type"]}
        config[FEATURE_LAYERS] = list(model.config.feature_layers)
    if task_of(model) in LANGUAGE_TASKS:
        config["tie_word_embeddings"] = model.config.tied_head
    if isinstance(model, SequenceClassifier) and model.config.causal:
        config["pad_token_id"] = _padding(model, config, tokenizer)
    _write_json(out / CONFIG, config)


def _padding(
    model: Model, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None
) -> int | None:
    """The id by which transformers finds a text's last token; None if there is none to go by."""
    if tokenizer is not None and tokenizer.pad_token_id is not None:
        return tokenizer.pad_token_id
    given = config.get("pad_token_id")
    is_known = type(given) is int and 0 <= given < model.config.vocab_size
    return given if is_known else None


def _write_generation_config(
    source: Path, out: Path, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    """The source's, with every token that ends a text."""
    contents = read_generation_config(source)
    ends = list(end_token_ids(source, tokenizer))
    if ends:
        contents["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    if contents:
        _write_json(out / GENERATION_CONFIG, contents)


def _write_json(path: Path, contents: Mapping[str, Any]) -> None:
    text = json.dumps(contents, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def _write_weights(
    model: Model, parameters: dict[str, Any], family: Family, out: Path, shard_bytes: int
) -> None:
    task = task_of(model)
    weights = family.weight_names(model.config, task)
    tensors = {weight.hf_name: _tensor(model, parameters, weight) for weight in weights}
    head = family.head(task)
    if head.vocab_bias is not None and not model.config.tied_head:
        # transformers' untied decoder has one of its own, with which it computes.
        tensors[f"{head.layers[-1][1]}.bias"] = tensors[f"{head.vocab_bias}.bias"]
    write_tensors(out, tensors, shard_bytes=shard_bytes)


def _tensor(model: Model, parameters: dict[str, Any], weight: WeightName) -> Tensor:
    leaf = jax.eval_shape(lambda: _leaf(model, parameters, weight))
    shape = leaf.shape[::-1] if weight.transposed else leaf.shape
    return Tensor(shape, spelled(leaf.dtype), partial(tensor_of, model, parameters, weight))


def _leaf(model: Model, parameters: dict[str, Any], weight: WeightName) -> Any:
    """The parameter in our layout, of one layer also where layers are stacked."""
    path = path_in_model(model.config, weight.path)
    owner: Any = parameters
    for part in path[:-1]:
        owner = owner[part]

    def read(name: str | int) -> Any:
        return owner[name] if path == weight.path else owner[name][weight.path[2]]

    module = get_module(model, path[:-1])
    if isinstance(module, QuantisedLinear) and path[-1] == "kernel":
        dtype = parameters["transformer"]["embed_tokens"]["embedding"].dtype
        return decode(read("codes"), read("scales"), module.inputs).astype(dtype)
    return read(path[-1])


def tensor_of(model: Model, parameters: dict[str, Any], weight: WeightName) -> np.ndarray:
    """A tensor of a checkpoint, given the nested dict of parameters, in their dtype."""
    array = np.asarray(_leaf(model, parameters, weight))
    return np.ascontiguousarray(array.T if weight.transposed else array)
