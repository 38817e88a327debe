"""The model families: a table of what differs between them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dpjax.basics.option_checks import did_you_mean
from dpjax.models.config import TransformerConfig
from dpjax.models.families.bert import AVERAGING_LAYER as AVERAGING_LAYER
from dpjax.models.families.bert import BERT, DISTILBERT, ROBERTA, XLM_ROBERTA
from dpjax.models.families.family import LANGUAGE_TASKS as LANGUAGE_TASKS
from dpjax.models.families.family import TASKS as TASKS
from dpjax.models.families.family import Family as Family
from dpjax.models.families.family import Head as Head
from dpjax.models.families.family import ModuleName as ModuleName
from dpjax.models.families.family import Path as Path
from dpjax.models.families.family import Task as Task
from dpjax.models.families.family import WeightName as WeightName
from dpjax.models.families.gemma import GEMMA, GEMMA2, GEMMA3, GEMMA3_TEXT
from dpjax.models.families.gpt import GPT2, GPT_NEOX, OPT
from dpjax.models.families.llama import (
    GRANITE,
    LLAMA,
    MINISTRAL3,
    MISTRAL,
    MISTRAL3,
    MIXTRAL,
    OLMO2,
    OLMO3,
    PHI3,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    SMOLLM3,
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "gpt2": GPT2,
        "gpt_neox": GPT_NEOX,
        "opt": OPT,
        "llama": LLAMA,
        "mistral": MISTRAL,
        "mistral3": MISTRAL3,
        "ministral3": MINISTRAL3,
        "mixtral": MIXTRAL,
        "qwen2": QWEN2,
        "qwen3": QWEN3,
        "qwen3_moe": QWEN3_MOE,
        "gemma": GEMMA,
        "gemma2": GEMMA2,
        "gemma3_text": GEMMA3_TEXT,
        "gemma3": GEMMA3,
        "olmo2": OLMO2,
        "olmo3": OLMO3,
        "granite": GRANITE,
        "phi3": PHI3,
        "smollm3": SMOLLM3,
        "bert": BERT,
        "roberta": ROBERTA,
        "xlm-roberta": XLM_ROBERTA,
        "distilbert": DISTILBERT,
    }
)


def family_of(model_type: str) -> Family:
    """The family named by `model_type` of a config.json; ValueError for an unsupported one.

    Example:
        >>> family_of("gpt2").names["norm"]
        'transformer.ln_f'
    """
    if model_type not in FAMILIES:
        from transformers import CONFIG_MAPPING

        # A family that transformers knows is not misspelt: another name would be another model.
        hint = (
            " Take a checkpoint of one of these families."
            if model_type in CONFIG_MAPPING
            else did_you_mean(model_type, FAMILIES)
        )
        raise ValueError(
            f"model_type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}.{hint}"
        )
    return FAMILIES[model_type]


def head_names(config: TransformerConfig, task: Task) -> tuple[str, ...]:
    """The parts of our model that a checkpoint without a head for the task lacks.

    Raises:
        ValueError: if the family has no head for the task.

    Example:
        >>> from dpjax.models import parse_config
        >>> from transformers import BertConfig
        >>> head_names(parse_config(BertConfig().to_dict()), "sequence_classification")
        ('classifier',)
    """
    family = family_of(config.model_type)
    family.head(task)
    modules = family.head_modules(config, task)
    return tuple(m.path[0] for m in modules if not m.hf_name.startswith(family.base_prefix))
