"""What is asked of adapters, checked against a model before any is put on."""

from __future__ import annotations

from collections.abc import Sequence

from dpjax.basics.lora_config import LoraConfig, pattern_fits
from dpjax.basics.option_checks import did_you_mean
from dpjax.models.adapters.targets import all_modules, select_saved
from dpjax.models.families import ModuleName, Path
from dpjax.models.net.heads import MaskedLM, Model
from dpjax.models.net.module_paths import get_module, path_in_model
from dpjax.models.net.quantised import QuantisedLinear


def ranks_and_scalings(
    model: Model, config: LoraConfig, targets: Sequence[ModuleName]
) -> dict[Path, tuple[int, float]]:
    """The rank and the scaling of each adapter; ValueError for a name that means none of them."""
    for option, keys in (("rank_pattern", config.ranks()), ("alpha_pattern", config.alphas())):
        for key in keys:
            if not any(pattern_fits(key, module.hf_name) for module in targets):
                endings = sorted({module.hf_name.rpartition(".")[2] for module in targets})
                raise ValueError(
                    f"lora.{option}: {key!r} means no adapted layer; there are "
                    f"{', '.join(endings)}." + did_you_mean(key, endings)
                )
    shapes: dict[Path, tuple[int, float]] = {}
    for module in targets:
        path = path_in_model(model.config, module.path)
        shape = config.rank_of(module.hf_name), config.scaling_of(module.hf_name)
        if shapes.setdefault(path, shape) != shape:
            raise ValueError(
                f"{module.hf_name} has another rank or scaling than the same layer below it, but "
                "these are stacked: load the model with scan_layers=False"
            )
    return shapes


def check_saved(model: Model, saved: Sequence[ModuleName]) -> None:
    """Refuses to train layers in full whose kernel is held as codes."""
    for module in saved:
        path = path_in_model(model.config, module.path)
        if module.kind != "bias" and isinstance(get_module(model, path), QuantisedLinear):
            raise ValueError(
                f"modules_to_save means {module.hf_name}, whose weights are quantised "
                f"({model.config.quantise}), and codes cannot be trained: leave it out, or load "
                "the model with quantise=none"
            )


def check_tables(model: Model, config: LoraConfig, targets: Sequence[ModuleName]) -> None:
    """Refuses what adapters on embeddings and heads, and rows of tokens, do not go with."""
    tables = [m for m in targets if m.kind == "embedding" or m.path == ("lm_head",)]
    for module in tables:
        if config.gauge == "tangent":
            raise ValueError(
                "lora.gauge=tangent is for linear layers below the head, and target_modules names "
                f"{module.hf_name}: leave out one of them"
            )
        for option in ("use_dora", *(("freeze_a",) if module.kind == "embedding" else ())):
            if getattr(config, option):
                raise ValueError(
                    f"lora.{option} is for linear layers below the head, and target_modules names "
                    f"{module.hf_name}: leave out one of them"
                )
    tokens = config.trainable_token_indices
    if not tokens:
        return
    if isinstance(model, MaskedLM):
        raise ValueError(
            "lora.trainable_token_indices is not supported beside a head for masked tokens: leave "
            "it out"
        )
    if max(tokens) >= model.config.vocab_size:
        raise ValueError(
            f"lora.trainable_token_indices has {max(tokens)}, but the model has "
            f"{model.config.vocab_size} tokens, counted from 0"
        )
    embed_tokens = ("transformer", "embed_tokens")
    others = (*targets, *select_saved(model, config.modules_to_save))
    if any(module.path == embed_tokens for module in others):
        raise ValueError(
            "lora.trainable_token_indices are rows of the token embedding, which target_modules or "
            "modules_to_save names too: leave out one of them"
        )


def check_biases(model: Model, config: LoraConfig, targets: Sequence[ModuleName]) -> None:
    """Refuses biases that no layer has, or that a head for masked tokens would have."""
    if config.bias == "none":
        return
    if isinstance(model, MaskedLM):
        raise ValueError(
            f"lora.bias={config.bias!r} is not supported beside a head for masked tokens, which "
            "stays as it is: leave it out"
        )
    modules = targets if config.bias == "lora_only" else all_modules(model)
    if not any(module.has_bias for module in modules):
        whose = "adapted layers have" if config.bias == "lora_only" else "model has"
        raise ValueError(f"lora.bias is {config.bias!r}, but the {whose} no biases: leave it out")
