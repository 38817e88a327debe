"""An adapter as a folder that peft opens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from flax import nnx

from dpjax.models.adapters.files.adapter_config import adapter_config
from dpjax.models.adapters.files.layout import (
    ADAPTER_WEIGHTS,
    PREFIX,
    bias_weights,
    classification_head,
    lora_weights,
    row_weights,
    tied_embedding,
    tied_head_name,
    token_embedding,
)
from dpjax.models.adapters.lora import has_lora
from dpjax.models.adapters.targets import all_modules, select_saved, select_targets
from dpjax.models.checkpoint.config_json import read_config
from dpjax.models.checkpoint.files import ADAPTER_CONFIG
from dpjax.models.checkpoint.save import tensor_of
from dpjax.models.checkpoint.tensors import open_tensors
from dpjax.models.families import family_of
from dpjax.models.net.heads import Model, task_of


def is_own_base(model: Model, folder: str | Path) -> bool:
    """Whether an adapter of the model fits the checkpoint in `folder` as it is.

    It does not if layers were dropped, one was appended for pooling, or a layer that an adapter
    does not bring (the pooler of BERT) was started anew because the checkpoint lacks it.

    Example:
        >>> import jax
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("base")
        >>> from dpjax.models import CausalLM, load_classifier, read_config, save_model
        >>> save_model(CausalLM(read_config("base"), rngs=nnx.Rngs(0)), "lm", source="base")
        >>> model = load_classifier("lm", label_names=("no", "yes"), key=jax.random.key(0))
        >>> is_own_base(model, "lm")
        True
    """
    task, family = task_of(model), family_of(model.config.model_type)
    if read_config(folder).num_layers != model.config.num_layers:
        return False
    present = {family.table_name(name, task) for name in open_tensors(Path(folder))}
    brought = {w.hf_name for module in classification_head(model) for w in module.weights()}
    return present | brought >= {w.hf_name for w in family.weight_names(model.config, task)}


def save_adapter(
    model: Model,
    out: str | Path,
    *,
    base: str | Path,
    revision: str | None = None,
) -> None:
    """Write adapter_config.json and adapter_model.safetensors; peft opens the folder.

    What is written: the adapters, a frozen A too, the classification head, the modules to save and
    the biases that were named.
    The base is not: what a checkpoint lacks and was started anew when it was loaded must be among
    them (the pooler of a BERT that was not pretrained with one), and a layer that was appended for
    pooling must be in the base's folder (`save_model` before the adapters are added), which must
    have as many layers as the model; `is_own_base` tells. The rows of a head are in the order of
    the model's logits.

    Args:
        model: with adapters.
        out: the folder to write; made if it does not exist.
        base: the checkpoint the model was loaded from, a folder or a hub id.
        revision: the commit of a hub id (`revision_of`), which peft then loads.

    Raises:
        ValueError: if the model has no adapters.

    Example:
        >>> import jax
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("base")
        >>> from dpjax.models import CausalLM, LoraConfig, add_lora, read_config
        >>> model = CausalLM(read_config("base"), rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
        >>> save_adapter(model, "adapter", base="base")
        >>> sorted(path.name for path in Path("adapter").iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']
    """
    from safetensors.numpy import save_file

    if not has_lora(model):
        raise ValueError("the model has no adapters to save: call add_lora first, or save_model")
    targets = select_targets(model, model.lora)
    saved = select_saved(model, model.lora.modules_to_save)
    whole = dict.fromkeys((*classification_head(model), *saved))
    weights = [w for module in targets for w in lora_weights(module, model.lora.use_dora)]
    weights += [weight for module in whole for weight in module.weights()]
    others = [module for module in all_modules(model) if module not in whole]
    if model.lora.trainable_token_indices:
        weights += row_weights(token_embedding(model))
    weights += bias_weights(model.lora.bias, others, targets)
    parameters = nnx.to_pure_dict(nnx.split(model)[1])
    tensors = {PREFIX + w.hf_name: tensor_of(model, parameters, w) for w in weights}
    heads = list(dict.fromkeys(m.hf_name.partition(".")[0] for m in classification_head(model)))
    names = [m.hf_name for m in saved if m.hf_name.partition(".")[0] not in heads]
    contents = adapter_config(model, str(base), revision, targets, [*heads, *names])
    tied = tied_embedding(model)
    if tied in saved:
        head = tied_head_name(model)
        tensors[f"{PREFIX}{head}.weight"] = tensors[f"{PREFIX}{tied.hf_name}.weight"].copy()
        contents["modules_to_save"].append(head)
        contents["ensure_weight_tying"] = True
    if tied in targets:
        head = f"{PREFIX}{tied_head_name(model)}"
        a, b = (f"{PREFIX}{tied.hf_name}.lora_embedding_{part}" for part in "AB")
        tensors[f"{head}.lora_A.weight"] = np.ascontiguousarray(tensors[b].T)
        tensors[f"{head}.lora_B.weight"] = np.ascontiguousarray(tensors[a].T)
        # By the head's name peft sees that they are tied, whatever the embedding is called.
        contents["target_modules"].append(tied_head_name(model))
        contents["ensure_weight_tying"] = True
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    # In ASCII: the name of a folder need not be text.
    text = json.dumps(contents, indent=2) + "\n"
    (out / ADAPTER_CONFIG).write_text(text, encoding="utf-8")
