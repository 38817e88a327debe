"""A folder with an adapter, opened without its base, as far as it can be merged with others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpjax.basics.lora_config import LoraConfig
from dpjax.models.adapters.files.adapter_config import (
    STARTS_INSIDE,
    lora_config_of,
    read_without_model,
)
from dpjax.models.adapters.files.layout import ADAPTER_WEIGHTS, PREFIX
from dpjax.models.adapters.files.merging.combinations import WeightedPair
from dpjax.models.adapters.files.tensors import open_adapter
from dpjax.models.checkpoint.files import ADAPTER_CONFIG
from dpjax.models.checkpoint.tensors import Tensor, Tensors, are_equal

# The tensors of A and B behind the name of a module; those of an embedding have other names.
_ENDINGS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))


@dataclasses.dataclass(frozen=True)
class PairOfTensors:
    """A `(r, in)` and B `(out, r)` of a module as they are stored.

    Attributes:
        names: of both tensors, without prefix.
    """

    names: tuple[str, str]
    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """The rank of this module."""
        return self.a.shape[0]

    def weighted(self, factor: float) -> WeightedPair:
        """Reads both tensors."""
        return WeightedPair(self.a.read(), self.b.read(), factor)


@dataclasses.dataclass(frozen=True)
class StoredAdapter:
    """An adapter that can be merged with others.

    Attributes:
        folder: where it is.
        contents: of adapter_config.json.
        config: its options.
        pairs: the adapters by the whole name of their module.
        others: what is stored in full, by name without prefix.
    """

    folder: Path
    contents: Mapping[str, Any]
    config: LoraConfig
    pairs: Mapping[str, PairOfTensors]
    others: Tensors

    @property
    def rank(self) -> int:
        """The largest rank that the options name, which peft calls the rank of the adapter."""
        return max(self.config.rank, *self.config.ranks().values(), 0)

    def weighted(self, module: str, weight: float) -> WeightedPair:
        """Reads the adapter of a module, times `weight`; ValueError for numbers like NaN."""
        pair = self.pairs[module]
        read = pair.weighted(weight * self.config.scaling_of(module))
        for name, values in zip(pair.names, (read.a, read.b), strict=True):
            if not np.isfinite(values.astype(np.float32)).all():
                raise ValueError(
                    f"{self.folder / ADAPTER_WEIGHTS}: tensor {PREFIX}{name} holds numbers that "
                    "are not finite: its training failed; merge without this adapter"
                )
        return read


def open_stored_adapter(folder: Path) -> StoredAdapter:
    """Opens an adapter; tensors are read when they are needed.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the adapter is damaged, or of a kind that is not merged.
    """
    contents = read_without_model(folder)
    path = folder / ADAPTER_WEIGHTS
    tensors = open_adapter(path)
    _check_kind(folder / ADAPTER_CONFIG, contents, tensors)
    names = {
        name.removesuffix(ending_a): (name, name.removesuffix(ending_a) + ending_b)
        for ending_a, ending_b in _ENDINGS
        for name in tensors
        if name.endswith(ending_a)
    }
    for _, b in names.values():
        if b not in tensors:
            raise ValueError(f"{path}: tensor {PREFIX}{b} is missing")
    others = {n: t for n, t in tensors.items() if not any(n in pair for pair in names.values())}
    for name in others:
        if ".lora_" in name:
            raise ValueError(f"{path}: tensor {PREFIX}{name} belongs to no pair of A and B")
    if not names:
        raise ValueError(f"{path} holds no adapter of any module: there is nothing to merge")
    config = lora_config_of(folder / ADAPTER_CONFIG, contents, list(names), (), "none", (), False)
    pairs = {m: PairOfTensors(pair, *(tensors[n] for n in pair)) for m, pair in names.items()}
    for module, pair in pairs.items():
        _check_shapes(path, pair, config.rank_of(module))
    return StoredAdapter(folder, contents, config, pairs, others)


def _check_kind(path: Path, contents: Mapping[str, Any], tensors: Tensors) -> None:
    """Refuses what is more than a sum of W and scaling · B A."""
    advice = "merge it into its base first (load_adapter, merge_lora, save_model)"
    if contents.get("use_dora") or any("lora_magnitude_vector" in name for name in tensors):
        raise ValueError(f"{path}: use_dora = True: DoRA is no sum, and is not merged; {advice}")
    if contents.get("trainable_token_indices") or any("token_adapter" in name for name in tensors):
        raise ValueError(
            f"{path}: trainable_token_indices: rows of tokens are not merged; {advice}"
        )
    start = str(contents.get("init_lora_weights")).lower()
    if start in STARTS_INSIDE:
        raise ValueError(
            f"{path}: init_lora_weights = {start!r} began inside the base, and is not merged as it "
            "is; load it on its base, and save it again with save_adapter"
        )
    if contents.get("ensure_weight_tying") and any("lora_embedding" in name for name in tensors):
        raise ValueError(
            f"{path}: ensure_weight_tying: an adapter on a tied embedding is not merged; {advice}"
        )


def _check_shapes(path: Path, pair: PairOfTensors, rank: int) -> None:
    shapes = ((rank, *pair.a.shape[-1:]), (*pair.b.shape[:1], rank))
    for name, tensor, shape in zip(pair.names, (pair.a, pair.b), shapes, strict=True):
        tensor.check(f"{PREFIX}{name} in {path}", shape, f"{ADAPTER_CONFIG} implies")


def check_fit(first: StoredAdapter, other: StoredAdapter) -> None:
    """Raises ValueError unless two adapters belong to one base, and differ in adapters only."""
    both = f"{first.folder} and {other.folder}"
    names = [adapter.contents.get("base_model_name_or_path") for adapter in (first, other)]
    if not _is_one_base(*names):
        raise ValueError(f"{both} belong to other bases, {names[0]!r} and {names[1]!r}")
    revisions = {a.contents.get("revision") for a in (first, other)} - {None}
    if len(revisions) > 1:
        said = " and ".join(sorted(map(repr, revisions)))
        raise ValueError(f"{both} belong to other revisions of {names[0]!r}: {said}")
    tasks = [adapter.contents.get("task_type") for adapter in (first, other)]
    if tasks[0] != tasks[1]:
        raise ValueError(f"{both} are for other tasks, task_type {tasks[0]!r} and {tasks[1]!r}")
    for module in first.pairs.keys() & other.pairs.keys():
        pairs = first.pairs[module], other.pairs[module]
        sizes = [(p.names, p.a.shape[1], p.b.shape[0]) for p in pairs]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{both} belong to other bases: {module} has {sizes[0][1]} inputs and "
                f"{sizes[0][2]} outputs in the first, {sizes[1][1]} and {sizes[1][2]} in the other"
            )
    _check_others(first, other)


def _is_one_base(first: object, other: object) -> bool:
    """Whether two names mean the same checkpoint: a folder may be named in several ways."""
    if first == other:
        return True
    folders = [Path(name) for name in (first, other) if isinstance(name, str)]
    if len(folders) < 2 or not all(folder.is_dir() for folder in folders):
        return False
    return folders[0].resolve() == folders[1].resolve()


def _check_others(first: StoredAdapter, other: StoredAdapter) -> None:
    """Refuses what is stored in full and is not the same in both."""
    both = f"{first.folder} and {other.folder}"
    saved = [sorted(a.contents.get("modules_to_save") or ()) for a in (first, other)]
    if saved[0] != saved[1]:
        raise ValueError(
            f"{both} differ in modules_to_save, {saved[0]} and {saved[1]}: only adapters are merged"
        )
    biases = [adapter.contents.get("bias", "none") for adapter in (first, other)]
    if biases[0] != biases[1]:
        raise ValueError(f"{both} differ in bias, {biases[0]!r} and {biases[1]!r}")
    for name in sorted(first.others.keys() | other.others.keys()):
        held = [adapter.others.get(name) for adapter in (first, other)]
        if held[0] is None or held[1] is None or not are_equal(held[0], held[1]):
            if name.endswith(".base_layer.weight"):
                raise ValueError(f"{both} belong to other bases: they differ in {name}")
            raise ValueError(
                f"{both} differ in {name}, which was trained in full: only adapters are merged"
            )
