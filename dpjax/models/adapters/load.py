"""A folder with an adapter, written by dpjax or peft, put on a model."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpjax.lora_config import ALL_LINEAR, LoraConfig
from dpjax.models.adapters.lora import add_lora, has_lora
from dpjax.models.adapters.peft_layout import (
    ADAPTER_WEIGHTS,
    PREFIX,
    classification_head,
    lora_config_of,
    lora_weights,
    read_adapter_config,
    tied_embedding,
    tied_head_name,
)
from dpjax.models.adapters.targets import (
    adaptable_modules,
    all_modules,
    ends_with,
    layer_of,
    lies_in,
)
from dpjax.models.checkpoint.files import ADAPTER_CONFIG
from dpjax.models.checkpoint.tensors import Tensor, Tensors, are_equal, open_safetensors
from dpjax.models.families import ModuleName, WeightName
from dpjax.models.net.heads import Model
from dpjax.models.net.module_paths import get_module, path_in_model
from dpjax.option_checks import did_you_mean

# What peft puts around a module to save: itself, and the module before tuning.
_TUNED, _BEFORE = "modules_to_save", "original_module"
# Tensors of adapters that are not a plain pair of A and B.
_OTHER_TENSORS = {
    ".lora_magnitude_vector": "DoRA (a magnitude beside A and B)",
    ".lora_embedding_": "an adapter on an embedding",
    ".lora_B.bias": "biases of B",
    ".base_layer.": "a base weight",
}


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
            base or task; an option that is not supported (DoRA, biases of B, adapters on
            embeddings, ranks or scalings that differ between modules); missing, unexpected, damaged
            or wrongly shaped tensors.

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
    tensors = _tied_once(path, model, contents, _open(path))
    adapted, whole = _modules_of(path, model, tensors, contents)
    _check_targets(path, model, contents, adapted)
    head = classification_head(model)
    saved = [module.hf_name for module in whole if module not in head]
    config = lora_config_of(folder / ADAPTER_CONFIG, contents, adapted, saved, freeze_a)
    weights = [weight for module in adapted for weight in lora_weights(module)]
    weights += [weight for module in whole for weight in module.weights()]
    values = _values(path, model, config, weights, tensors)
    add_lora(model, config, key=jax.random.key(0))
    for place, value in values.items():
        variable = getattr(get_module(model, place[:-1]), place[-1])
        variable[...] = jax.device_put(value, variable[...].sharding)


def _open(path: Path) -> Tensors:
    """The tensors by name without prefix."""
    if not path.is_file():
        if path.with_suffix(".bin").is_file():
            raise FileNotFoundError(
                f"{path.parent} holds its adapter only as a pickle (adapter_model.bin), which can "
                "run code when opened and is not read. Convert it where you trust the file: load "
                "it with peft and call save_pretrained"
            )
        raise FileNotFoundError(f"{path.parent} has no {ADAPTER_WEIGHTS}")
    stored = open_safetensors(path)
    for part, what in _OTHER_TENSORS.items():
        for name in stored:
            if part in name:
                raise ValueError(f"{path}: tensor {name} belongs to {what}: not supported")
    tensors: Tensors = {}
    for name, tensor in stored.items():
        if not name.startswith(PREFIX):
            raise ValueError(f"{path}: tensor {name} does not start with {PREFIX!r}")
        tensors[name.removeprefix(PREFIX)] = tensor
    return _without_wrappers(path, tensors)


def _without_wrappers(path: Path, tensors: Tensors) -> Tensors:
    """Without what peft stores again of a module to save, once the vocabulary has been resized.

    Beside `lm_head.weight`, which it reads back, there are `lm_head.modules_to_save.weight`, the
    same, and `lm_head.original_module.weight`, what was there before tuning.
    """
    kept = {n: t for n, t in tensors.items() if not re.search(rf"\.({_TUNED}|{_BEFORE})\.", n)}
    for name, tensor in tensors.items():
        usual = re.sub(rf"\.({_TUNED}|{_BEFORE})\.", ".", name)
        if usual not in kept:
            raise ValueError(f"{path}: tensor {PREFIX}{usual} is missing, there is only {name}")
        if f".{_TUNED}." in name and not are_equal(tensor, kept[usual]):
            raise ValueError(
                f"{path}: tensors {PREFIX}{usual} and {PREFIX}{name} differ: which was trained "
                "cannot be told; save the adapter again with peft"
            )
    return kept


def _modules_of(
    path: Path, model: Model, tensors: Tensors, contents: Mapping[str, Any]
) -> tuple[list[ModuleName], list[ModuleName]]:
    """The modules with an adapter and those stored in full; every tensor belongs to one."""
    modules = all_modules(model)
    known = {weight.hf_name: module for module in modules for weight in module.weights()}
    known |= {weight.hf_name: module for module in modules for weight in lora_weights(module)}
    unknown = sorted(tensors.keys() - known.keys())
    if unknown:
        raise ValueError(
            f"{path}: {len(unknown)} tensors, such as {unknown[0]}, are for modules that this "
            f"{model.config.model_type} model does not have: the adapter belongs to another base "
            f"(it was made for {contents.get('base_model_name_or_path')!r})."
            + did_you_mean(unknown[0], known)
        )
    adapted = {known[name] for name in tensors if ".lora_" in name}
    whole = {known[name] for name in tensors if ".lora_" not in name}
    for module in adapted - set(adaptable_modules(model)):
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
    for module in adapted | whole:
        expected = [*(lora_weights(module) if module in adapted else ())]
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
    for module in adaptable_modules(model):
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
    layers = contents.get("layers_to_transform")
    if isinstance(layers, int):
        layers = [layers]
    return (
        _matches(module, contents["target_modules"])
        and not _matches(module, contents.get("exclude_modules") or ())
        and not any(lies_in(module, name) for name in contents.get("modules_to_save") or ())
        and (not layers or layer_of(module) in layers)
    )


def _matches(module: ModuleName, names: str | Sequence[str]) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module.hf_name) is not None
    return any(ends_with(module, name) for name in names)


def _tied_once(path: Path, model: Model, contents: Mapping[str, Any], tensors: Tensors) -> Tensors:
    """The tensors with an embedding that is also the head under the embedding's name only.

    Refuses a file that would make two of them: peft then computes with both.
    """
    tied = tied_embedding(model)
    if tied is None:
        return tensors
    embedding, head = (f"{name}.weight" for name in (tied.hf_name, tied_head_name(model)))
    others = {name: tensor for name, tensor in tensors.items() if name != head}
    if head in tensors and embedding in tensors:
        if not are_equal(tensors[head], tensors[embedding]):
            raise _untied(path, f"{embedding} and {head}, which differ", "are one")
        return others
    for name in (head, embedding):
        is_trained = any(
            f".{name}".endswith(f".{n}.weight") for n in contents.get("modules_to_save") or ()
        )
        if name in tensors and is_trained and not contents.get("ensure_weight_tying"):
            raise _untied(path, f"{name} alone", "is head and embedding in one")
    return others | ({embedding: tensors[head]} if head in tensors else {})


def _untied(path: Path, what: str, tied: str) -> ValueError:
    return ValueError(
        f"{path}: the adapter brings {what}, but in this model that {tied}: load a base that "
        "was saved with a head of its own (tie_word_embeddings = false in config.json)"
    )


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
    module = get_module(model, place[:-1])
    if place[-1] == "lora_a":
        return module.kernel.shape[-2], config.rank
    if place[-1] == "lora_b":
        return config.rank, module.kernel.shape[-1]
    shape = getattr(module, place[-1]).shape
    return shape if place == weight.path else shape[1:]
