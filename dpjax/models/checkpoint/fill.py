"""A model of shapes filled with the tensors of a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpjax.basics.option_checks import check_choice
from dpjax.models.checkpoint.tensors import Tensor, Tensors
from dpjax.models.config import Quantise, TransformerConfig
from dpjax.models.families import Family, Task, WeightName
from dpjax.models.net.heads import Model
from dpjax.models.net.module_paths import LAYERS, get_module, path_in_model
from dpjax.models.net.quantised import QuantisedLinear
from dpjax.models.net.weight_codes import encode

ParamDtype = Literal["float32", "bfloat16"]
# From a parameter's path, dotted, and its shape to where its array goes.
Placement = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


@dataclasses.dataclass(frozen=True)
class Loading:
    """How a checkpoint is loaded; none of it changes what the model computes beyond rounding.

    With `quantise` the rounding is coarse: the linear layers inside the layers hold their kernels
    as codes, see `encode`, which cannot be trained. Biases, norms, embeddings and heads stay as
    they are. Kernels are rounded as they are read, one after the other.

    Attributes:
        param_dtype: of the parameters; bfloat16 is for weights that are not trained themselves.
        dtype: of activations.
        attention: see `TransformerConfig`.
        scan_layers: see `TransformerConfig`.
        rematerialise: see `TransformerConfig`.
        quantise: none; int8, about a quarter of float32; or nf4, about 1/7.5.
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
    quantise: Quantise = "none"
    placement: Placement | None = None

    def __post_init__(self) -> None:
        if self.param_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"param_dtype must be float32 or bfloat16, got {self.param_dtype!r}")
        check_choice("quantise", self.quantise, get_args(Quantise))

    def apply_to(self, config: TransformerConfig) -> TransformerConfig:
        """Returns the configuration of a model that is loaded in this way."""
        return dataclasses.replace(
            config,
            dtype=self.dtype,
            attention=self.attention,
            scan_layers=self.scan_layers,
            rematerialise=self.rematerialise,
            quantise=self.quantise,
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
    abstract = nnx.eval_shape(lambda: make(rngs=SameKey()))
    graphdef, state = nnx.split(abstract)
    parameters = nnx.to_pure_dict(state)
    grouped: dict[tuple, list[WeightName]] = {}
    for weight in family.weight_names(config, task):
        grouped.setdefault(path_in_model(config, weight.path), []).append(weight)
    for path, weights in grouped.items():
        shape = _shape(abstract, path)[_is_stacked(config, path) :]
        for weight in weights:
            implied = shape[::-1] if weight.transposed else shape
            tensors[weight.hf_name].check(weight.hf_name, implied, "config.json implies")
    for path, weights in grouped.items():
        owner, leaf = _owner(parameters, path), path[-1]
        if leaf not in owner:
            for name, value in _codes(owner, weights, tensors, _is_stacked(config, path), loading):
                place = (*path[:-1], name)
                owner[name] = jax.block_until_ready(_placed(value, place, loading))
            continue
        if _is_stacked(config, path):
            value = np.empty(owner[leaf].shape, jnp.dtype(loading.param_dtype))
            for row, weight in zip(value, weights, strict=True):
                row[...] = _read(weight, tensors[weight.hf_name], loading.param_dtype)
        else:
            value = _read(weights[0], tensors[weights[0].hf_name], loading.param_dtype)
        # Waits: until a copy is done, JAX holds what it is made from, and more would pile up.
        owner[leaf] = jax.block_until_ready(_placed(value, path, loading))
        row = value = None
    return nnx.merge(graphdef, parameters)


def _is_stacked(config: TransformerConfig, path: tuple) -> bool:
    return config.scan_layers and path[:2] == LAYERS


def _shape(model: Model, path: tuple) -> tuple[int, ...]:
    """The shape of a parameter; of a kernel also where it is held as codes."""
    module = get_module(model, path[:-1])
    if isinstance(module, QuantisedLinear) and path[-1] == "kernel":
        return module.kernel_shape
    shape: tuple[int, ...] = getattr(module, path[-1]).shape
    return shape


def _codes(
    owner: dict[str, Any],
    weights: Sequence[WeightName],
    tensors: Tensors,
    is_stacked: bool,
    loading: Loading,
) -> list[tuple[str, np.ndarray]]:
    """The codes and scales of a kernel, by name; of all layers where these are stacked."""
    names = ("codes", "scales")
    values = [np.empty(owner[name].shape, owner[name].dtype) for name in names]
    for index, weight in enumerate(weights):
        kernel = _read(weight, tensors[weight.hf_name], "float32")
        # Here, not of the scales: a maximum may pass over what is not a number.
        if not np.isfinite(kernel).all():
            raise ValueError(
                f"tensor {weight.hf_name} has infinite entries, or some that are not numbers: it "
                f"cannot be held as {loading.quantise}. Repair the checkpoint"
            )
        for value, part in zip(values, _encode(kernel, loading.quantise), strict=True):
            value[index if is_stacked else ...] = np.asarray(part)
    return list(zip(names, values, strict=True))


@partial(jax.jit, static_argnames="quantise")
def _encode(kernel: jax.Array, quantise: Quantise) -> tuple[jax.Array, jax.Array]:
    return encode(kernel, quantise)


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


def _read(weight: WeightName, tensor: Tensor, dtype: ParamDtype) -> np.ndarray:
    """The tensor in our layout."""
    value = tensor.read().astype(jnp.dtype(dtype), copy=False)
    return value.T if weight.transposed else value
