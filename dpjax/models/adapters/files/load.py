"""A folder with an adapter, written by dpjax or peft, put on a model."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpjax.basics.lora_config import ALL_LINEAR, LoraConfig
from dpjax.basics.option_checks import did_you_mean
from dpjax.models.adapters.files.adapter_config import (
    STARTS_INSIDE,
    lora_config_of,
    read_adapter_config,
    read_token_indices,
)
from dpjax.models.adapters.files.layout import (
    ADAPTER_WEIGHTS,
    PREFIX,
    bias_weights,
    classification_head,
    lora_weights,
    row_weights,
    token_embedding,
)
from dpjax.models.adapters.files.start_values import without_start_values
from dpjax.models.adapters.files.tensors import (
    open_adapter,
    tied_adapter_once,
    tied_once,
    without_base,
)
from dpjax.models.adapters.lora import add_lora, has_lora
from dpjax.models.adapters.targets import (
    adaptable_modules,
    all_modules,
    is_named,
    lies_in,
    named_only_modules,
)
from dpjax.models.checkpoint.files import ADAPTER_CONFIG
from dpjax.models.checkpoint.tensors import Tensor, Tensors
from dpjax.models.families import ModuleName, WeightName
from dpjax.models.net.heads import MaskedLM, Model
from dpjax.models.net.module_paths import get_module, path_in_model


def load_adapter(model: Model, folder: str | Path, *, freeze_a: bool = False) -> None:
    """Put the adapters of a folder written by `save_adapter` or peft on a model, in place.

    The model then computes what peft computes with the adapter and the same base (dropout off), and
    is ready to be tuned further. Nothing is changed if anything is refused.

    Args:
        model: the base, loaded for the adapter's task.
        folder: with adapter_config.json and adapter_model.safetensors.
        freeze_a: whether further tuning leaves A as it is, which the folder does not say.

    Raises:
        FileNotFoundError: without adapter_config.json or safetensors; pickles are not read.
        ValueError: for a model that has adapters already; an adapter of another kind or for another
            base or task; an option that is not supported; missing, unexpected, damaged or wrongly
            shaped tensors.

    Example:
        >>> from flax import nnx
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("base")
        >>> from dpjax.models import CausalLM, LoraConfig, add_lora, read_config, save_adapter
        >>> model = CausalLM(read_config("base"), rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
        >>> save_adapter(model, "adapter", base="base")
        >>> again = CausalLM(read_config("base"), rngs=nnx.Rngs(0))
        >>> load_adapter(again, "adapter")
        >>> again.lora.rank
        2
    """
    if has_lora(model):
        raise ValueError("the model has LoRA adapters already; call merge_lora first")
    folder = Path(folder)
    contents = read_adapter_config(folder, model)
    path = folder / ADAPTER_WEIGHTS
    tensors = without_base(path, model, open_adapter(path))
    tensors = tied_adapter_once(path, model, tied_once(path, model, contents, tensors))
    tokens = read_token_indices(folder / ADAPTER_CONFIG, contents, model)
    rows = list(row_weights(token_embedding(model))) if tokens else []
    own = [weight.hf_name for weight in rows]
    others = {name: tensor for name, tensor in tensors.items() if name not in own}
    adapted, whole = _modules_of(path, model, others, contents)
    _check_targets(path, model, contents, adapted)
    head = classification_head(model)
    saved = [module.hf_name for module in whole if module not in head]
    biases = _biases(path, model, tensors, contents, adapted, whole)
    config = lora_config_of(
        folder / ADAPTER_CONFIG,
        contents,
        [module.hf_name for module in adapted],
        saved,
        contents["bias"] if biases else "none",
        tokens,
        freeze_a,
    )
    start = str(contents.get("init_lora_weights")).lower()
    if start in STARTS_INSIDE:
        _check_not_quantised(folder / ADAPTER_CONFIG, model, start)
        config, tensors = without_start_values(path, model, config, start, adapted, tensors)
    weights = [weight for module in adapted for weight in lora_weights(module, config.use_dora)]
    weights += [weight for module in whole for weight in module.weights()] + biases + rows
    if rows and own[0] not in tensors:
        raise ValueError(f"{path}: tensor {PREFIX}{own[0]} is missing")
    values = _values(path, model, config, weights, tensors)
    add_lora(model, config, key=jax.random.key(0))
    for place, value in values.items():
        variable = getattr(get_module(model, place[:-1]), place[-1])
        variable[...] = jax.device_put(value, variable[...].sharding)


def _check_not_quantised(path: Path, model: Model, start: str) -> None:
    if model.config.quantise != "none":
        raise ValueError(
            f"{path}: init_lora_weights = {start!r} started the adapter at a part of the weights, "
            f"which are quantised here ({model.config.quantise}): load the base with quantise=none"
        )


def _modules_of(
    path: Path, model: Model, tensors: Tensors, contents: Mapping[str, Any]
) -> tuple[list[ModuleName], list[ModuleName]]:
    """The modules with an adapter and those stored in full; every tensor belongs to one."""
    modules = all_modules(model)
    is_dora = bool(contents.get("use_dora"))
    known = {weight.hf_name: module for module in modules for weight in module.weights()}
    known |= {w.hf_name: module for module in modules for w in lora_weights(module, is_dora)}
    for module in named_only_modules(model):
        if f"{module.hf_name}.lora_magnitude_vector" in tensors:
            raise ValueError(
                f"{path.with_name(ADAPTER_CONFIG)}: use_dora = True is not supported for "
                f"{module.hf_name}, an embedding or a head: train it without DoRA"
            )
    biases = {}
    if contents.get("bias", "none") != "none":
        biases = {f"{m.hf_name}.base_layer.bias": m for m in modules if m.has_bias}
        biases |= {f"{m.hf_name}.bias": m for m in modules if m.has_bias}
    unknown = sorted(tensors.keys() - known.keys() - biases.keys())
    if unknown:
        raise ValueError(
            f"{path}: {len(unknown)} tensors, such as {unknown[0]}, are for modules that this "
            f"{model.config.model_type} model does not have: the adapter belongs to another base "
            f"(it was made for {contents.get('base_model_name_or_path')!r})."
            + did_you_mean(unknown[0], known)
        )
    adapted = {known[name] for name in tensors if ".lora_" in name}
    whole = {known[name] for name in tensors if ".lora_" not in name and name not in biases}
    for module in adapted - {*adaptable_modules(model), *named_only_modules(model)}:
        raise ValueError(
            f"{path}: an adapter on {module.hf_name} is not supported: it is trained in full, or "
            "not at all"
        )
    head = classification_head(model)
    if head and head[-1] not in whole:
        raise ValueError(
            f"{path}: the adapter brings no {head[-1].hf_name}, which tuning makes: its "
            "modules_to_save left it out"
        )
    names = contents.get("modules_to_save") or ()
    whole |= {module for module in modules if any(lies_in(module, name) for name in names)}
    for module in (module for module in modules if module in adapted | whole):
        expected = [*(lora_weights(module, is_dora) if module in adapted else ())]
        expected += module.weights() if module in whole else ()
        missing = [weight.hf_name for weight in expected if weight.hf_name not in tensors]
        if missing:
            raise ValueError(f"{path}: tensor {PREFIX}{missing[0]} is missing")
    return [m for m in modules if m in adapted], [m for m in modules if m in whole]


def _check_targets(
    path: Path, model: Model, contents: Mapping[str, Any], adapted: Collection[ModuleName]
) -> None:
    """Refuse a file that has adapters on other modules than peft would put them on."""
    if contents["target_modules"] == ALL_LINEAR:
        return
    for module in (*adaptable_modules(model), *named_only_modules(model)):
        if _is_target(module, contents) and module not in adapted:
            raise ValueError(
                f"{path} has no adapter for {module.hf_name}, which target_modules names: the file "
                "is incomplete, or made for another base"
            )
        if module in adapted and not _is_target(module, contents):
            raise ValueError(
                f"{path} has an adapter for {module.hf_name}, which target_modules in "
                f"{ADAPTER_CONFIG} does not name: the files do not belong together"
            )


def _is_target(module: ModuleName, contents: Mapping[str, Any]) -> bool:
    """Whether peft adapts the module."""
    names = contents["target_modules"]
    if is_named(module, contents.get("exclude_modules") or ()):
        return False
    if any(lies_in(module, name) for name in contents.get("modules_to_save") or ()):
        return False
    if isinstance(names, str) or module.hf_name in names:
        # peft looks at layers only where the ending of a name is given.
        return is_named(module, names)
    return is_named(module, names) and _is_in_layers(module, contents)


def _is_in_layers(module: ModuleName, contents: Mapping[str, Any]) -> bool:
    """Whether the module lies in one of layers_to_transform, as peft counts them."""
    layers = contents.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    if not layers:
        return True
    patterns = contents.get("layers_pattern") or [r"[^.]*\.[^.]*"]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        match = re.match(rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\.", module.hf_name)
        if match is not None:
            return int(match["layer"]) in layers
    return False


def _biases(
    path: Path,
    model: Model,
    tensors: Tensors,
    contents: Mapping[str, Any],
    adapted: Collection[ModuleName],
    whole: Collection[ModuleName],
) -> list[WeightName]:
    """The biases that the adapter brings beside modules in full."""
    bias = contents.get("bias", "none")
    if bias != "none" and isinstance(model, MaskedLM):
        raise ValueError(
            f"{path.with_name(ADAPTER_CONFIG)}: bias = {bias!r} is not supported beside a head for "
            "masked tokens, which stays as it is: train the adapter with bias = 'none'"
        )
    others = [module for module in all_modules(model) if module not in whole]
    weights = list(bias_weights(bias, others, adapted))
    missing = [weight.hf_name for weight in weights if weight.hf_name not in tensors]
    if missing:
        raise ValueError(
            f"{path}: tensor {PREFIX}{missing[0]} is missing, though bias = {bias!r}: some "
            "versions of peft did not write trained biases; save the adapter again with a newer one"
        )
    brought = {weight.hf_name for weight in weights}
    for name in tensors:
        if name.endswith(".base_layer.bias") and name not in brought:
            raise ValueError(f"{path}: tensor {PREFIX}{name} is not expected with bias = {bias!r}")
    return weights


def _values(
    path: Path,
    model: Model,
    config: LoraConfig,
    weights: Sequence[WeightName],
    tensors: Tensors,
) -> dict[tuple[str | int, ...], np.ndarray]:
    """The tensors in our layout and float32, those of stacked layers together."""
    grouped: dict[tuple[str | int, ...], list[np.ndarray]] = {}
    stacked = set()
    for weight in weights:
        place = path_in_model(model.config, weight.path)
        if place != weight.path:
            stacked.add(place)
        tensor = tensors[weight.hf_name]
        shape = _shape(model, config, weight)
        expected = shape[::-1] if weight.transposed else shape
        _check_rows(path, weight, tensor, expected)
        tensor.check(
            f"{PREFIX}{weight.hf_name} in {path}", expected, f"the model and {ADAPTER_CONFIG} imply"
        )
        value = tensor.read()
        value = value.T if weight.transposed else value
        grouped.setdefault(place, []).append(value.astype(np.float32))
    return {place: np.stack(v) if place in stacked else v[0] for place, v in grouped.items()}


def _check_rows(path: Path, weight: WeightName, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Refuses an adapter that was made after tokens were added to another base than this."""
    is_table = weight.path[-2] in ("embed_tokens", "lm_head") and weight.path[-1] != "bias"
    if is_table and tensor.shape[1:] == expected[1:] and tensor.shape != expected:
        raise ValueError(
            f"{path}: tensor {PREFIX}{weight.hf_name} has {tensor.shape[0]} rows, this model "
            f"{expected[0]}: the adapter was made with another number of tokens; load a base that "
            f"was saved after resize_token_embeddings({tensor.shape[0]})"
        )


def _shape(model: Model, config: LoraConfig, weight: WeightName) -> tuple[int, ...]:
    """The shape of a parameter in our layout, of one layer."""
    place = path_in_model(model.config, weight.path)
    # The model has no adapters yet: a base lies where the adapter will.
    module = get_module(model, [part for part in place[:-1] if part != "base"])
    if place[-1] == "token_rows":
        return len(config.trainable_token_indices), module.embedding.shape[-1]
    if place[-1] in ("lora_embedding_a", "lora_embedding_b"):
        rows, size = module.embedding.shape
        rank = config.rank_of(weight.hf_name.rpartition(".lora_")[0])
        return (rows, rank) if place[-1] == "lora_embedding_a" else (rank, size)
    if place[-1] in ("lora_a", "lora_b", "lora_magnitude"):
        inputs, outputs = module.kernel_shape[-2:]
        rank = config.rank_of(weight.hf_name.rpartition(".lora_")[0])
        return {
            "lora_a": (inputs, rank),
            "lora_b": (rank, outputs),
            "lora_magnitude": (outputs,),
        }[place[-1]]
    shape = getattr(module, place[-1]).shape
    return shape if place == weight.path else shape[1:]
