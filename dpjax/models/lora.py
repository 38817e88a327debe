"""Low-rank adapters on linear layers (LoRA: Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.models.families import ModuleName, Path, Task, family_of
from dpjax.models.heads import CausalLM, Model, SequenceClassifier
from dpjax.models.layers import Linear
from dpjax.models.pooling import is_fixed
from dpjax.models.suggest import did_you_mean

ALL_LINEAR = "all-linear"


class LoraParam(nnx.Param):
    """A parameter of a low-rank adapter that is trained."""


class FrozenLoraParam(nnx.Param):
    """A parameter of a low-rank adapter that stays as it is."""


class LoraLinear(nnx.Module):
    """`y = base(x) + scaling * (x A) B`, with A `(in, r)` and B `(r, out)`.

    A starts uniform in ±1/√in (the initialisation of peft: Kaiming uniform with a = √5), B at zero:
    a fresh adapter changes nothing. With `freeze_a` only B is trained. On stacked layers A and B
    have the leading axis of the base's kernel.
    """

    def __init__(
        self,
        base: Linear,
        *,
        rank: int,
        scaling: float,
        key: jax.Array,
        freeze_a: bool = False,
    ):
        *layers, inputs, outputs = base.kernel.shape
        bound = inputs**-0.5
        self.base = base
        self.scaling = scaling
        a = jax.random.uniform(key, (*layers, inputs, rank), jnp.float32, -bound, bound)
        self.lora_a = FrozenLoraParam(a) if freeze_a else LoraParam(a)
        self.lora_b = LoraParam(jnp.zeros((*layers, rank, outputs), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., in)` to `(..., out)`."""
        a, b = (part[...].astype(x.dtype) for part in (self.lora_a, self.lora_b))
        return self.base(x) + self.scaling * (x @ a @ b)

    def merged(self) -> Linear:
        """The base layer, its kernel now including the adapter."""
        delta = jnp.matmul(self.lora_a[...], self.lora_b[...], precision="highest")
        kernel = self.base.kernel[...]
        self.base.kernel[...] = (kernel + self.scaling * delta).astype(kernel.dtype)
        return self.base


def add_lora(
    model: Model,
    *,
    rank: int,
    alpha: float,
    target_modules: Sequence[str] | str,
    key: jax.Array,
    layers_to_transform: Sequence[int] | None = None,
    freeze_a: bool = False,
) -> None:
    """Put an adapter of scale alpha / rank on the chosen linear layers, in place.

    Args:
        target_modules: Hugging Face module names as peft takes them, ("query", "value") or longer
            endings such as "attention.output.dense"; or "all-linear": every linear layer except the
            classification head and a layer appended for pooling.
        key: a JAX key for A.
        layers_to_transform: adapt the target modules in these encoder layers only, counted from 0,
            as in peft; None means in all. No gradient is computed below the lowest.
        freeze_a: train B only (FFA-LoRA: Sun et al. 2024, "Improving LoRA in Privacy-preserving
            Federated Learning", arXiv:2403.12313). The update is then linear in what is trained,
            so that noise in A and noise in B are not multiplied, and half as many coordinates
            get noise.

    Raises:
        ValueError: for a rank or alpha that is not positive, a model that has adapters already, a
            layer that does not exist or cannot be adapted, or a name that matches no linear layer
            (the head is trained as it is: no adapter).
    """
    if not (isinstance(rank, int) and rank > 0):
        raise ValueError(f"LoRA rank must be a positive whole number, got {rank!r}")
    if not alpha > 0:
        raise ValueError(f"LoRA alpha must be positive, got {alpha!r}")
    if has_lora(model):
        raise ValueError("the model has LoRA adapters already; call merge_lora first")
    targets = _select(model, target_modules)
    if layers_to_transform is not None:
        if model.config.scan_layers:
            raise ValueError(
                "layers_to_transform needs layers of their own: load the model with "
                "scan_layers=False"
            )
        targets = _inside(targets, layers_to_transform)
    paths = list(dict.fromkeys(own_path(model, module.path) for module in targets))
    for path, module_key in zip(paths, jax.random.split(key, len(paths)), strict=True):
        base = _get(model, path)
        lora = LoraLinear(base, rank=rank, scaling=alpha / rank, key=module_key, freeze_a=freeze_a)
        _set(model, path, lora)


def merge_lora(model: Model) -> None:
    """Fold every adapter into its base layer, W + (alpha / rank) A B, in place."""
    for path in dict.fromkeys(own_path(model, module.path) for module in _linear_modules(model)):
        layer = _get(model, path)
        if isinstance(layer, LoraLinear):
            _set(model, path, layer.merged())


def has_lora(model: Model) -> bool:
    """Whether any layer of the model carries an adapter."""
    modules = _linear_modules(model)
    return any(isinstance(_get(model, own_path(model, m.path)), LoraLinear) for m in modules)


def task_of(model: Model) -> Task:
    """The task whose head the model has."""
    if isinstance(model, CausalLM):
        return "causal_lm"
    is_sequence = isinstance(model, SequenceClassifier)
    return "sequence_classification" if is_sequence else "token_classification"


def _linear_modules(model: Model) -> Iterator[ModuleName]:
    """The linear layers that may carry an adapter, under their paths in the model."""
    family = family_of(model.config.model_type)
    for module in family.modules(model.config, task_of(model)):
        if module.kind not in ("linear", "conv1d"):
            continue
        if module.hf_name.startswith(family.base_prefix) and not is_fixed(
            model.config, module.path
        ):
            yield module


def own_path(model: Model, path: Path) -> Path:
    """A path of the family's table in this model: stacked layers have no number."""
    if model.config.scan_layers and path[:2] == ("transformer", "layers"):
        return (*path[:2], *path[3:])
    return path


def _select(model: Model, target_modules: Sequence[str] | str) -> list[ModuleName]:
    modules = list(_linear_modules(model))
    if target_modules == ALL_LINEAR:
        return modules
    if isinstance(target_modules, str):
        raise ValueError(
            f"target_modules must be {ALL_LINEAR!r} or a sequence of names, got the string "
            f"{target_modules!r}; for one name write ({target_modules!r},)"
        )
    if not target_modules:
        raise ValueError("target_modules is empty: LoRA needs at least one layer to adapt")
    for target in target_modules:
        if not any(_matches(module, target) for module in modules):
            names = sorted({module.hf_name.rpartition(".")[2] for module in modules})
            raise ValueError(
                f"target module {target!r} matches no linear layer of the model; "
                f"there are {', '.join(names)}, longer endings such as "
                f"{'.'.join(modules[3].hf_name.split('.')[-2:])!r}, and {ALL_LINEAR!r}."
                + did_you_mean(target, [*names, ALL_LINEAR])
            )
    return [m for m in modules if any(_matches(m, target) for target in target_modules)]


def _inside(modules: Sequence[ModuleName], layers: Sequence[int]) -> list[ModuleName]:
    """Those of `modules` that lie in one of `layers`."""
    present = {module.path[2] for module in modules if module.path[:2] == ("transformer", "layers")}
    if not layers or not present.issuperset(layers):
        raise ValueError(
            f"layers_to_transform is {list(layers)}; layers with a target module are "
            f"{sorted(present)}"
        )
    return [m for m in modules if m.path[:2] == ("transformer", "layers") and m.path[2] in layers]


def _matches(module: ModuleName, target: str) -> bool:
    return f".{module.hf_name}".endswith(f".{target}")


def _get(model: nnx.Module, path: Sequence[str | int]) -> nnx.Module:
    for part in path:
        model = model[part] if isinstance(part, int) else getattr(model, part)
    return model


def _set(model: nnx.Module, path: Sequence[str | int], value: nnx.Module) -> None:
    setattr(_get(model, path[:-1]), path[-1], value)
