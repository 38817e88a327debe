"""Adapters go to peft and come back with equal logits, for every family."""

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from dpjax.models import (
    LoraConfig,
    add_lora,
    load_adapter,
    merge_lora,
    save_adapter,
)
from tests.support.peft_models import (
    TASK_TYPES,
    assert_equal,
    load,
    logits_of,
    moved,
    original,
    ours,
    peft,
    shake,
)
from tests.support.peft_warnings import IGNORE_OLD_NAME
from tests.support.tiny_checkpoints import CONFIGS, DECODERS

pytestmark = [
    pytest.mark.slow,
    IGNORE_OLD_NAME,
    # peft sets fan_in_fan_out by itself where a model has both kinds of layers.
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
]
CASES = [
    (family, "causal_lm" if family in DECODERS else "sequence_classification") for family in CONFIGS
]
CASES += [
    ("gpt2", "sequence_classification"),
    ("llama", "token_classification"),
    ("roberta", "token_classification"),
    ("bert", "masked_lm"),
    ("roberta", "masked_lm"),
    ("distilbert", "masked_lm"),
]


def leaves(model):
    return nnx.to_pure_dict(nnx.state(model))


@pytest.mark.parametrize(("family", "task"), CASES)
def test_there_and_back(family, task, tmp_path):
    base = original(family, task, tmp_path / "base")
    plain = logits_of(base)
    model = load(tmp_path / "base", task)
    config = LoraConfig(rank=3, alpha=5, target_modules="all-linear", use_rslora=True, dropout=0.25)
    add_lora(model, config, key=jax.random.key(1))
    model = moved(model)
    save_adapter(model, tmp_path / "ours", base=tmp_path / "base")

    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "ours", is_trainable=True).eval()
    expected = logits_of(adapted)
    assert np.abs(expected - plain).max() > 0.01
    assert_equal(ours(model), expected)
    stored = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    theirs = peft.get_peft_model_state_dict(adapted)
    assert stored.keys() == theirs.keys()

    shake(adapted)
    adapted.save_pretrained(tmp_path / "theirs")
    expected = logits_of(adapted)
    again = load(tmp_path / "base", task)
    load_adapter(again, tmp_path / "theirs")
    assert again.lora.dropout == 0.25
    assert np.abs(expected - ours(model)).max() > 0.01
    assert_equal(ours(again), expected)

    stacked = load(tmp_path / "base", task, scan_layers=True)
    load_adapter(stacked, tmp_path / "theirs")
    save_adapter(stacked, tmp_path / "stacked", base=tmp_path / "base")
    for name, value in load_file(tmp_path / "theirs" / "adapter_model.safetensors").items():
        other = load_file(tmp_path / "stacked" / "adapter_model.safetensors")[name]
        np.testing.assert_array_equal(other, value)

    merge_lora(again)
    assert_equal(ours(again), expected)


PEFTS_OWN = [
    ("llama", "causal_lm", {"target_modules": r".*\.layers\.1\..*_proj"}),
    (
        "mistral",
        "causal_lm",
        {
            "target_modules": ["v_proj", "mlp.down_proj"],
            "layers_to_transform": [1],
            "exclude_modules": ["mlp.down_proj"],
        },
    ),
    (
        "qwen2",
        "causal_lm",
        {
            "target_modules": "all-linear",
            "modules_to_save": ["lm_head", "norm", "input_layernorm", "model.layers.0.mlp"],
        },
    ),
    (
        "gpt2",
        "causal_lm",
        {
            "target_modules": ["c_attn", "c_fc"],
            "modules_to_save": ["wte", "lm_head"],
            "ensure_weight_tying": True,
        },
    ),
    ("bert", "sequence_classification", {"target_modules": ["query", "pooler.dense"]}),
    ("distilbert", "sequence_classification", {"target_modules": ["q_lin"]}),
    ("gpt2", "token_classification", {"target_modules": ["attn.c_proj"]}),
]


@pytest.mark.parametrize(("family", "task", "options"), PEFTS_OWN)
def test_adapters_that_peft_made_go_in_and_out(family, task, options, tmp_path):
    base = original(family, task, tmp_path / "base")
    config = peft.LoraConfig(task_type=TASK_TYPES[task], r=3, lora_alpha=5, **options)
    adapted = peft.get_peft_model(base, config)
    shake(adapted)
    adapted.save_pretrained(tmp_path / "theirs")
    expected = logits_of(adapted)
    model = load(tmp_path / "base", task)
    load_adapter(model, tmp_path / "theirs")
    assert_equal(ours(model), expected)
    save_adapter(model, tmp_path / "ours", base=tmp_path / "base")
    theirs, again = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "ours")
    )
    assert theirs.keys() == again.keys()
    for name in theirs:
        np.testing.assert_array_equal(again[name], theirs[name])
    reopened = peft.PeftModel.from_pretrained(
        original(family, task, tmp_path / "base"), tmp_path / "ours"
    )
    assert_equal(logits_of(reopened), expected)
