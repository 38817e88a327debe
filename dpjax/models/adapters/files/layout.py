"""What the tensors of an adapter are called in the layout of peft.

`base_model.model.<module>.lora_A.weight` is `(r, in)` and `lora_B.weight` `(out, r)`, also where
the base layer is stored as (in, out); DoRA adds `lora_magnitude_vector`, `(out,)`. Biases of
adapted layers are named `base_layer.bias`. All else has its usual name after the same prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from dpjax.basics.lora_config import Bias
from dpjax.models.adapters.targets import all_modules, head_modules
from dpjax.models.families import LANGUAGE_TASKS, ModuleName, WeightName, family_of
from dpjax.models.net.heads import Model, task_of

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


def lora_weights(module: ModuleName, use_dora: bool) -> Iterator[WeightName]:
    """The adapter of a module, under its names without prefix."""
    name = module.hf_name
    if module.kind == "embedding":
        yield WeightName((*module.path, "lora_embedding_a"), f"{name}.lora_embedding_A", True)
        yield WeightName((*module.path, "lora_embedding_b"), f"{name}.lora_embedding_B", True)
        return
    yield WeightName((*module.path, "lora_a"), f"{name}.lora_A.weight", True)
    yield WeightName((*module.path, "lora_b"), f"{name}.lora_B.weight", True)
    if use_dora:
        yield WeightName((*module.path, "lora_magnitude"), f"{name}.lora_magnitude_vector", False)


def bias_weights(
    bias: Bias, modules: Iterable[ModuleName], adapted: Collection[ModuleName]
) -> Iterator[WeightName]:
    """The biases that `LoraConfig.bias` names, under their names without prefix.

    Args:
        bias: which.
        modules: those of the model that are not stored in full.
        adapted: those of them with an adapter.
    """
    for module in modules:
        if not module.has_bias:
            continue
        if module in adapted and bias != "none":
            name = f"{module.hf_name}.base_layer.bias"
            yield WeightName((*module.path, "base", "bias"), name, False)
        elif bias == "all":
            yield WeightName((*module.path, "bias"), f"{module.hf_name}.bias", False)


def row_weights(module: ModuleName) -> Iterator[WeightName]:
    """Rows of the token embedding that are trained, under their name without prefix."""
    name = f"{module.hf_name}.token_adapter.trainable_tokens_delta"
    yield WeightName((*module.path, "token_rows"), name, False)


def token_embedding(model: Model) -> ModuleName:
    """The token embedding."""
    return next(m for m in all_modules(model) if m.path == ("transformer", "embed_tokens"))


def classification_head(model: Model) -> tuple[ModuleName, ...]:
    """The head of a classifier, which every adapter brings; none of a language model."""
    return () if task_of(model) in LANGUAGE_TASKS else head_modules(model)


def tied_embedding(model: Model) -> ModuleName | None:
    """The token embedding if it is the head as well."""
    if task_of(model) != "causal_lm" or not model.config.tied_head:
        return None
    return token_embedding(model)


def tied_head_name(model: Model) -> str:
    """What transformers calls the head that is tied to the token embedding."""
    (_, theirs, _), *_ = family_of(model.config.model_type).head("causal_lm").layers
    return theirs
