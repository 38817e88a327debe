"""The tensors of a folder with an adapter, each under one name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from dpjax.models.adapters.files.layout import PREFIX, tied_embedding, tied_head_name
from dpjax.models.adapters.targets import all_modules
from dpjax.models.checkpoint.save import tensor_of
from dpjax.models.checkpoint.tensors import Tensors, are_equal, open_safetensors
from dpjax.models.net.heads import Model

# What peft puts around a module to save: itself, and the module before tuning.
_TUNED, _BEFORE = "modules_to_save", "original_module"
_BASE_WEIGHT = ".base_layer.weight"
# Around an embedding of which single rows are trained.
_TOKEN_ADAPTER = ".token_adapter"
# Tensors of adapters that are not a plain pair of A and B.
_OTHER_TENSORS = {
    ".lora_B.bias": "biases of B",
}


def open_adapter(path: Path) -> Tensors:
    """The tensors by name without prefix."""
    if not path.is_file():
        if path.with_suffix(".bin").is_file():
            raise FileNotFoundError(
                f"{path.parent} holds its adapter only as a pickle (adapter_model.bin), which can "
                "run code when opened and is not read. Convert it where you trust the file: load "
                "it with peft and call save_pretrained"
            )
        raise FileNotFoundError(f"{path.parent} has no {path.name}")
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


def without_base(path: Path, model: Model, tensors: Tensors) -> Tensors:
    """Without the weights of the base that peft stores beside adapters on embeddings and heads.

    Refuses weights that are not those of this model.
    """
    parameters = nnx.to_pure_dict(nnx.split(model)[1])
    weights = {w.hf_name: w for module in all_modules(model) for w in module.weights()}
    kept = {name: t for name, t in tensors.items() if not name.endswith(_BASE_WEIGHT)}
    for name in tensors.keys() - kept.keys():
        usual = name.removesuffix(_BASE_WEIGHT).removesuffix(_TOKEN_ADAPTER) + ".weight"
        tied = tied_embedding(model)
        if tied is not None and usual == f"{tied_head_name(model)}.weight":
            usual = f"{tied.hf_name}.weight"
        if usual not in weights or not np.array_equal(
            tensors[name].read().astype(np.float32),
            tensor_of(model, parameters, weights[usual]).astype(np.float32),
        ):
            raise ValueError(
                f"{path}: tensor {PREFIX}{name} is not the weight of this model: the adapter was "
                "made for another base, or its vocabulary has been resized since"
            )
    return kept


def tied_adapter_once(path: Path, model: Model, tensors: Tensors) -> Tensors:
    """The tensors with an adapter on a tied embedding under the embedding's name only.

    Refuses a file in which the head would have another one, or none: peft then unties them.
    """
    tied = tied_embedding(model)
    if tied is None:
        return tensors
    head = tied_head_name(model)
    pairs = {
        f"{head}.lora_A.weight": f"{tied.hf_name}.lora_embedding_B",
        f"{head}.lora_B.weight": f"{tied.hf_name}.lora_embedding_A",
    }
    present = [name for pair in pairs.items() for name in pair if name in tensors]
    if not present:
        return tensors
    if len(present) < 2 * len(pairs):
        # Also with ensure_weight_tying: peft looks for tied layers by two names only.
        raise _untied(path, f"{present[0]} alone", "is head and embedding in one")
    for of_head, of_embedding in pairs.items():
        if not np.array_equal(tensors[of_head].read(), tensors[of_embedding].read().T):
            raise _untied(path, f"{of_head} and {of_embedding}, which differ", "are one")
    return {name: tensor for name, tensor in tensors.items() if name not in pairs}


def tied_once(path: Path, model: Model, contents: Mapping[str, Any], tensors: Tensors) -> Tensors:
    """The tensors with an embedding that is also the head under the embedding's name only.

    Refuses a file that would make two of them: peft then computes with both.
    """
    tied = tied_embedding(model)
    if tied is None:
        return tensors
    # Of rows that are trained, peft stores the head's copy once the vocabulary has been resized.
    rows = [
        f"{n}{_TOKEN_ADAPTER}.trainable_tokens_delta" for n in (tied.hf_name, tied_head_name(model))
    ]
    if all(name in tensors for name in rows):
        if not are_equal(*(tensors[name] for name in rows)):
            raise _untied(path, f"{rows[0]} and {rows[1]}, which differ", "are one")
        tensors = {name: tensor for name, tensor in tensors.items() if name != rows[1]}
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
