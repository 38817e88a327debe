"""Adapters that started inside the base: what peft took away from its weights, put back.

PiSSA (Meng et al. 2024, arXiv:2404.02948) and OLoRA (Büyükakyüz 2024, arXiv:2406.01775) start A and
B at a part of W and tune beside W − s·B₀A₀. peft computes A₀ and B₀ again when it loads such a
file. So does dpjax, and leaves W as it is: W − s·B₀A₀ + s·BA is a plain adapter of twice the rank,
W + s·[B, −B₀][A; A₀], which is also what peft converts these adapters to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np

from dpjax.basics.lora_config import LoraConfig
from dpjax.models.adapters.files.layout import PREFIX
from dpjax.models.checkpoint.tensors import Tensor, Tensors, spelled
from dpjax.models.families import ModuleName
from dpjax.models.net.heads import Model
from dpjax.models.net.module_paths import get_module, path_in_model

# Singular values closer than this, as a share of the largest, have no order in float32.
_LEAST_GAP = 1e-6


def without_start_values(
    path: Path,
    model: Model,
    config: LoraConfig,
    start: str,
    adapted: Collection[ModuleName],
    tensors: Tensors,
) -> tuple[LoraConfig, Tensors]:
    """The options and tensors of the plain adapter of twice the rank that computes the same.

    Args:
        path: the file, for messages.
        model: the base, as the adapter was started from it.
        config: the options of the adapter as it was stored.
        start: pissa or olora.
        adapted: the modules with an adapter.
        tensors: by name without prefix.

    Raises:
        ValueError: a tensor has another shape, or peft has no such start for a module.
    """
    plain = dict(tensors)
    for module in adapted:
        if module.kind == "embedding":
            # peft starts an embedding as without this option.
            raise ValueError(
                f"{path}: init_lora_weights = {start!r} is not supported beside an adapter on the "
                f"embedding {module.hf_name}; let peft convert the adapter (save_pretrained with "
                "path_initial_model_for_weight_conversion)"
            )
        rank, scaling = (f(module.hf_name) for f in (config.rank_of, config.scaling_of))
        inputs, outputs = _kernel(model, module).shape
        if start == "olora" and module.kind == "conv1d":
            raise ValueError(
                f"{path}: init_lora_weights = 'olora' is not supported for {module.hf_name}, which "
                "is stored as (in, out): peft mixes up its axes"
            )
        if rank > min(inputs, outputs):
            raise ValueError(
                f"{path}: init_lora_weights = {start!r} needs a rank of at most "
                f"{min(inputs, outputs)} for {module.hf_name}, got {rank}"
            )
        names = [f"{module.hf_name}.lora_{part}.weight" for part in "AB"]
        for name, shape in zip(names, ((rank, inputs), (outputs, rank)), strict=True):
            tensors[name].check(f"{PREFIX}{name} in {path}", shape, "the model and its rank imply")
        pair = _Pair(path, model, module, start, rank, scaling)
        for part, name, shape in zip(
            "AB", names, ((2 * rank, inputs), (outputs, 2 * rank)), strict=True
        ):
            read = partial(pair.joined, part, tensors[name])
            plain[name] = Tensor(shape, spelled(np.dtype(np.float32)), read)
    factor = 2**0.5 if config.use_rslora else 2
    doubled = dataclasses.replace(
        config,
        rank=2 * config.rank,
        alpha=factor * config.alpha,
        rank_pattern=tuple(f"{name}={2 * rank}" for name, rank in config.ranks().items()),
        alpha_pattern=tuple(f"{n}={factor * alpha}" for n, alpha in config.alphas().items()),
    )
    return doubled, plain


class _Pair:
    """A₀ and B₀ of one module, computed once for both tensors."""

    def __init__(
        self, path: Path, model: Model, module: ModuleName, start: str, rank: int, scaling: float
    ) -> None:
        self._path, self._model, self._module = path, model, module
        self._start, self._rank, self._scaling = start, rank, scaling
        self._computed: tuple[np.ndarray, np.ndarray] | None = None

    def joined(self, part: str, tensor: Tensor) -> np.ndarray:
        """[A; A₀], `(2r, in)`, or [B, −B₀], `(out, 2r)`, float32."""
        if self._computed is None:
            self._computed = self._compute()
        a, b = self._computed
        stored = tensor.read().astype(np.float32)
        return np.concatenate([stored, a], 0) if part == "A" else np.concatenate([stored, -b], 1)

    def _compute(self) -> tuple[np.ndarray, np.ndarray]:
        weight = _kernel(self._model, self._module).T.astype(np.float32)
        rank = self._rank
        if self._start == "olora":
            q, r = np.linalg.qr(weight)
            return r[:rank], q[:, :rank]
        left, values, right = np.linalg.svd(weight, full_matrices=False)
        if rank < len(values) and values[rank - 1] - values[rank] < _LEAST_GAP * values[0]:
            raise ValueError(
                f"{self._path}: init_lora_weights = 'pissa' took {rank} principal components from "
                f"{self._module.hf_name}, but which they were cannot be told: the next is as "
                "large. Let peft convert the adapter (save_pretrained with "
                "path_initial_model_for_weight_conversion)"
            )
        root = np.sqrt(values[:rank] / np.float32(self._scaling))
        return root[:, None] * right[:rank], left[:, :rank] * root


def _kernel(model: Model, module: ModuleName) -> np.ndarray:
    """The kernel `(in, out)` of a module that has no adapter yet, of one layer."""
    place = path_in_model(model.config, module.path)
    kernel = get_module(model, place).kernel[...]
    return np.asarray(kernel if place == module.path else kernel[module.path[2]])
