"""Which modules of a model a Hugging Face name, the ending of one, or a pattern stands for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from dpjax.basics.lora_config import ALL_LINEAR, LoraConfig
from dpjax.basics.option_checks import did_you_mean
from dpjax.models.families import ModuleName, Path, family_of
from dpjax.models.net.heads import Model, task_of
from dpjax.models.net.module_paths import LAYERS, path_in_model
from dpjax.models.net.pooling import is_fixed


def all_modules(model: Model) -> tuple[ModuleName, ...]:
    """Every module with parameters, as if layers were unrolled and nothing were adapted."""
    return family_of(model.config.model_type).modules(model.config, task_of(model))


def head_modules(model: Model) -> tuple[ModuleName, ...]:
    """The modules that a model without a head lacks; none for a tied head."""
    family = family_of(model.config.model_type)
    modules = family.head_modules(model.config, task_of(model))
    return tuple(m for m in modules if not m.hf_name.startswith(family.base_prefix))


def adaptable_modules(model: Model) -> tuple[ModuleName, ...]:
    """The linear layers that all-linear means: those below the head, nothing appended."""
    head = head_modules(model)
    return tuple(
        module
        for module in all_modules(model)
        if module.kind in ("linear", "conv1d")
        and module not in head
        and not is_fixed(model.config, module.path)
    )


def named_only_modules(model: Model) -> tuple[ModuleName, ...]:
    """What carries an adapter only where it is named: embeddings, and a causal model's own head."""
    if task_of(model) == "masked_lm":
        return ()
    tables = tuple(module for module in all_modules(model) if module.kind == "embedding")
    return (*tables, *(head_modules(model) if task_of(model) == "causal_lm" else ()))


def select_targets(model: Model, config: LoraConfig) -> list[ModuleName]:
    """The modules that get an adapter.

    Raises:
        ValueError: for a name or pattern that stands for no linear layer, or for something that
            cannot be adapted besides, and for a layer that has no target module.
    """
    saved = select_saved(model, config.modules_to_save)
    modules = [module for module in adaptable_modules(model) if module not in saved]
    if config.target_modules == ALL_LINEAR:
        targets = modules
    else:
        modules += [module for module in named_only_modules(model) if module not in saved]
        targets = _named(model, modules, config.target_modules)
    if config.layers_to_transform is not None:
        targets = _inside(targets, config.layers_to_transform)
    if config.exclude_modules:
        targets = _without(targets, config.exclude_modules)
    if not targets:
        raise ValueError(
            f"all target modules lie in modules_to_save {list(config.modules_to_save)}: nothing is "
            "left to adapt"
        )
    return targets


def select_saved(model: Model, names: Sequence[str]) -> list[ModuleName]:
    """The modules named by `modules_to_save`, or lying in one that is; ValueError for no such."""
    modules = [m for m in all_modules(model) if not is_fixed(model.config, m.path)]
    head: tuple[ModuleName, ...] = ()
    if task_of(model) == "masked_lm":
        head = head_modules(model)
        # transformers would copy a tied one, and go on with a head as it was before tuning.
        tied = ("transformer", "embed_tokens") if model.config.tied_head else None
        head += tuple(module for module in modules if module.path == tied)
    for name in names:
        if any(lies_in(module, name) for module in head):
            raise ValueError(
                f"modules_to_save: {name!r} is the head for masked tokens, or a part of it, which"
                " stays as it is beside adapters. Leave it out"
            )
        if any(module.kind == "expert" and lies_in(module, name) for module in modules):
            # transformers holds all experts of a layer in two arrays, which peft does not save.
            raise ValueError(
                f"modules_to_save: {name!r} has experts or their router in it, which are trained "
                "by tuning='full', or stay as they are. Leave it out"
            )
        if not any(lies_in(module, name) for module in modules):
            known = sorted({module.hf_name.rpartition(".")[2] for module in modules})
            raise ValueError(
                f"modules_to_save: {name!r} is no module of the model; there are "
                f"{', '.join(known)}." + _tied(model, name) + did_you_mean(name, known)
            )
    return [m for m in modules if any(lies_in(m, name) for name in names)]


def paths_in_model(model: Model, modules: Sequence[ModuleName]) -> list[Path]:
    """Where the modules are in this model, each path once.

    Raises:
        ValueError: if layers are stacked and a module is meant in some of them only.
    """
    counts = Counter(path_in_model(model.config, module.path) for module in modules)
    layers = model.config.num_layers if model.config.scan_layers else 1
    for path, count in counts.items():
        if path[:2] == LAYERS and count != layers:
            raise ValueError(
                f"{'.'.join(map(str, path[2:]))} is meant in {count} of {layers} layers, but these "
                "are stacked: load the model with scan_layers=False"
            )
    return list(counts)


def layer_of(module: ModuleName) -> int | None:
    """The number of the layer that the module lies in."""
    return module.path[2] if module.path[:2] == LAYERS else None


def ends_with(module: ModuleName, target: str) -> bool:
    """Whether `target` is the module's name or an ending of it, in whole parts."""
    return f".{module.hf_name}".endswith(f".{target}")


def is_named(module: ModuleName, names: str | Sequence[str]) -> bool:
    """Whether a pattern means the module's whole name, or one of several names an ending of it."""
    if isinstance(names, str):
        return re.fullmatch(names, module.hf_name) is not None
    return any(ends_with(module, name) for name in names)


def lies_in(module: ModuleName, name: str) -> bool:
    """Whether the module, or one around it, has a name that ends with `name`."""
    return f".{name}." in f".{module.hf_name}."


def _named(
    model: Model, modules: Sequence[ModuleName], targets: str | tuple[str, ...]
) -> list[ModuleName]:
    if isinstance(targets, str):
        chosen = [m for m in modules if re.fullmatch(targets, m.hf_name)]
        if not chosen:
            raise ValueError(
                f"the pattern {targets!r} matches no whole name of a linear layer, such as "
                f"{modules[0].hf_name!r}; for the ending of a name write ({targets!r},)"
            )
        besides = [m for m in _not_linear(model) if re.fullmatch(targets, m.hf_name)]
    else:
        for target in targets:
            if not any(ends_with(module, target) for module in modules):
                raise _no_such_target(model, modules, target)
        chosen = [m for m in modules if any(ends_with(m, target) for target in targets)]
        besides = [m for m in _not_linear(model) if any(ends_with(m, t) for t in targets)]
    if besides:
        raise ValueError(
            f"target_modules also matches {besides[0].hf_name}, a module of kind "
            f"{besides[0].kind}: only linear layers are adapted; {_advice(besides[0])}"
        )
    return chosen


def _not_linear(model: Model) -> list[ModuleName]:
    tables = named_only_modules(model)
    kinds = ("norm", "embedding", "expert")
    return [m for m in all_modules(model) if m.kind in kinds and m not in tables]


def _advice(module: ModuleName) -> str:
    """What to do in place of an adapter."""
    if module.kind == "expert":
        return "experts and their router are trained by tuning='full', or stay as they are"
    return "name it in modules_to_save to train it in full"


def _no_such_target(model: Model, modules: Sequence[ModuleName], target: str) -> ValueError:
    other = [m for m in _not_linear(model) if ends_with(m, target)]
    if other:
        return ValueError(
            f"target module {target!r} matches no linear layer: {other[0].hf_name} is of kind "
            f"{other[0].kind}; {_advice(other[0])}"
        )
    if any(ends_with(module, target) for module in head_modules(model)):
        return ValueError(
            f"target module {target!r} matches no linear layer below the head, and such a head "
            "gets no adapter: one for classes is trained in full as it is, one for masked tokens "
            "stays"
        )
    linear = adaptable_modules(model)
    names = sorted({m.hf_name.rpartition(".")[2] for m in modules if m in linear})
    longer = ".".join(modules[0].hf_name.split(".")[-2:])
    return ValueError(
        f"target module {target!r} matches no linear layer of the model; there are "
        f"{', '.join(names)}, longer endings such as {longer!r}, and {ALL_LINEAR!r}."
        + _tied(model, target)
        + did_you_mean(target, [*names, *(m.hf_name for m in modules), ALL_LINEAR])
    )


def _tied(model: Model, name: str) -> str:
    """A sentence for those who ask for a head that does not exist."""
    if task_of(model) != "causal_lm" or not model.config.tied_head:
        return ""
    heads = family_of(model.config.model_type).head("causal_lm").layers
    if all(theirs != name for _, theirs, _ in heads):
        return ""
    (embedding,) = (m for m in all_modules(model) if m.path[-1] == "embed_tokens")
    return f" The head is tied to {embedding.hf_name}: name that."


def _without(modules: Sequence[ModuleName], names: str | tuple[str, ...]) -> list[ModuleName]:
    """Those of `modules` that `exclude_modules` does not name."""
    for name in (names,) if isinstance(names, str) else names:
        pattern = names if isinstance(names, str) else (name,)
        if not any(is_named(module, pattern) for module in modules):
            endings = sorted({module.hf_name.rpartition(".")[2] for module in modules})
            raise ValueError(
                f"exclude_modules: {name!r} is none of the layers that get an adapter; these are "
                f"{', '.join(endings)}." + did_you_mean(name, endings)
            )
    left = [module for module in modules if not is_named(module, names)]
    if not left:
        raise ValueError(
            f"exclude_modules {names!r} names all target modules: nothing is left to adapt"
        )
    return left


def _inside(modules: Sequence[ModuleName], layers: Sequence[int]) -> list[ModuleName]:
    """Those of `modules` that lie in one of `layers`."""
    present = {layer_of(module) for module in modules} - {None}
    if not layers or not present.issuperset(layers):
        raise ValueError(
            f"layers_to_transform is {list(layers)}; layers with a target module are "
            f"{sorted(present)}"
        )
    return [module for module in modules if layer_of(module) in layers]
