"""A model of shapes filled with the tensors of a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpjax.models.checkpoint.tensors import Tensor, Tensors
from dpjax.models.config import TransformerConfig
from dpjax.models.families import Family, Task, WeightName
from dpjax.models.net.heads import Model
from dpjax.models.net.module_paths import LAYERS, path_in_model

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


def fill(
    make: Callable[..., Model],
    folder: Path,
    family: Family,
    task: Task,
    whole: TransformerConfig,
    config: TransformerConfig,
    tensors: Tensors,
    loading: Loading,
) -> Any:
    """Returns the model with every abstract parameter replaced by its tensor, one at a time.

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
