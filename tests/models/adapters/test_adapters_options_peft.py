"""Options of adapters as peft has them: files go in and out with equal logits."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from dpjax.models import LoraConfig, add_lora, load_adapter, merged_copy, save_adapter
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

pytestmark = [
    pytest.mark.slow,
    IGNORE_OLD_NAME,
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:Using Rank-Stabilized LoRA:UserWarning"),
]
CLASSIFIER = "sequence_classification"
PATTERNS = {
    "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.(up|down)_proj": 5},
    "alpha_pattern": {"down_proj": 3, "layers.0.self_attn.q_proj": 9},
}
ENDINGS = {"target_modules": ["q_proj", "up_proj", "down_proj"]}
FILES = [
    ("llama", "causal_lm", ENDINGS | PATTERNS),
    ("llama", "causal_lm", ENDINGS | PATTERNS | {"use_rslora": True, "use_dora": True}),
    ("gpt2", "causal_lm", {"target_modules": ["c_attn", "c_fc"], "rank_pattern": {"c_fc": 2}}),
    (
        "qwen2",
        "causal_lm",
        {
            "target_modules": ["q_proj", "v_proj", "model.layers.0.mlp.up_proj"],
            "layers_to_transform": [1],
            "layers_pattern": "layers",
            "exclude_modules": r".*\.v_proj",
        },
    ),
    ("bert", CLASSIFIER, {"target_modules": ["query", "pooler.dense"], "bias": "all"}),
    ("bert", CLASSIFIER, {"target_modules": ["query", "dense"], "bias": "lora_only"}),
    ("gpt2", "causal_lm", {"target_modules": ["c_attn", "c_fc"], "bias": "all"}),
    ("gpt2", "token_classification", {"target_modules": ["c_attn"], "bias": "lora_only"}),
    ("gemma", "causal_lm", {"target_modules": ["q_proj"], "bias": "all"}),
    ("gpt2", "causal_lm", {"target_modules": ["c_attn", "mlp.c_proj"], "use_dora": True}),
    ("bert", CLASSIFIER, {"target_modules": "all-linear", "use_dora": True, "bias": "all"}),
    ("phi3", "causal_lm", {"target_modules": "all-linear", "use_dora": True}),
    ("llama", "causal_lm", ENDINGS | {"init_lora_weights": "pissa"}),
    ("llama", "causal_lm", ENDINGS | PATTERNS | {"init_lora_weights": "pissa"}),
    ("gpt2", "causal_lm", {"target_modules": ["c_attn", "c_fc"], "init_lora_weights": "pissa"}),
    ("llama", "causal_lm", ENDINGS | {"init_lora_weights": "pissa", "use_dora": True}),
    (
        "llama",
        "causal_lm",
        ENDINGS | PATTERNS | {"init_lora_weights": "olora", "use_rslora": True},
    ),
    ("bert", CLASSIFIER, {"target_modules": ["query"], "init_lora_weights": "olora"}),
    ("llama", "causal_lm", ENDINGS | {"init_lora_weights": "orthogonal", "r": 4}),
]


@pytest.mark.parametrize(("family", "task", "options"), FILES)
def test_files_of_peft_go_in_and_out(family, task, options, tmp_path):
    base = original(family, task, tmp_path / "base")
    config = peft.LoraConfig(task_type=TASK_TYPES[task], **{"r": 3, "lora_alpha": 5} | options)
    adapted = peft.get_peft_model(base, config).eval()
    shake(adapted)
    adapted.save_pretrained(tmp_path / "theirs")
    expected = logits_of(adapted)
    # torch's singular values differ by 1e-6 from numpy's and from those in float64.
    tolerance = 1e-4 if options.get("init_lora_weights") == "pissa" else 1e-5
    model = load(tmp_path / "base", task)
    load_adapter(model, tmp_path / "theirs")
    assert_equal(ours(model), expected, tolerance)
    assert_equal(ours(merged_copy(model)), expected, tolerance)
    save_adapter(model, tmp_path / "ours", base=tmp_path / "base")
    fresh = original(family, task, tmp_path / "base")
    reopened = peft.PeftModel.from_pretrained(fresh, tmp_path / "ours")
    assert_equal(logits_of(reopened), ours(model))
    again = load(tmp_path / "base", task)
    load_adapter(again, tmp_path / "ours")
    assert again.lora == model.lora
    np.testing.assert_array_equal(ours(again), ours(model))


def test_eva_files_are_plain_ones_with_ranks_of_their_own(tmp_path):
    base = original("llama", "causal_lm", tmp_path / "base")
    options = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"]}
    eva = peft.EvaConfig(rho=2.0)
    config = peft.LoraConfig(init_lora_weights="eva", eva_config=eva, **options)
    adapted = peft.get_peft_model(base, config, low_cpu_mem_usage=True)
    ids = jax.device_get(jax.random.randint(jax.random.key(0), (8, 9), 3, 60)).astype(np.int64)
    import torch

    batch = {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(8, 9, dtype=torch.long)}
    peft.initialize_lora_eva_weights(adapted, [batch] * 8, show_progress_bar=False)
    adapted.eval()
    shake(adapted)
    adapted.save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "base", "causal_lm")
    load_adapter(model, tmp_path / "theirs")
    assert_equal(ours(model), logits_of(adapted))


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_adapters_beside_a_residual_base_or_converted_are_plain_ones(start, tmp_path):
    base = original("llama", "causal_lm", tmp_path / "base")
    config = peft.LoraConfig(r=3, lora_alpha=5, init_lora_weights=start, **ENDINGS)
    adapted = peft.get_peft_model(base, config).eval()
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(tmp_path / "start")
    shake(adapted)
    expected = logits_of(adapted)
    adapted.save_pretrained(tmp_path / "beside")
    adapted.save_pretrained(
        tmp_path / "converted", path_initial_model_for_weight_conversion=tmp_path / "start"
    )
    adapted.unload().save_pretrained(tmp_path / "residual")
    for name, folder in (("residual", "beside"), ("base", "converted")):
        model = load(tmp_path / name, "causal_lm")
        load_adapter(model, tmp_path / folder)
        assert_equal(ours(model), expected)


OWN = [
    (
        "llama",
        "causal_lm",
        {
            "target_modules": ("q_proj", "up_proj", "down_proj"),
            "exclude_modules": ("layers.1.self_attn.q_proj",),
            "rank_pattern": ("q_proj=2", r"layers\.1\.mlp.*=5"),
            "alpha_pattern": ("down_proj=3.5",),
            "use_rslora": True,
            "bias": "lora_only",
        },
    ),
    ("gpt2", "causal_lm", {"use_dora": True, "bias": "all"}),
    ("bert", CLASSIFIER, {"use_dora": True, "target_modules": ("query",), "bias": "all"}),
    ("qwen3", "causal_lm", {"use_dora": True, "freeze_a": True, "rank_pattern": ("k_proj=1",)}),
]


@pytest.mark.parametrize(("family", "task", "options"), OWN)
def test_files_of_dpjax_are_opened_by_peft(family, task, options, tmp_path):
    base = original(family, task, tmp_path / "base")
    plain = logits_of(base)
    model = load(tmp_path / "base", task)
    add_lora(model, LoraConfig(**{"rank": 3, "alpha": 5} | options), key=jax.random.key(1))
    assert_equal(ours(model), ours(load(tmp_path / "base", task)))
    model = moved(model)
    save_adapter(model, tmp_path / "ours", base=tmp_path / "base")
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    expected = logits_of(adapted)
    assert np.abs(expected - plain).max() > 0.01
    assert_equal(ours(model), expected)
    stored = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    theirs = peft.get_peft_model_state_dict(adapted)
    extra = {name for name in theirs if ".original_module." in name or ".modules_to_save." in name}
    assert stored.keys() == theirs.keys() - extra
