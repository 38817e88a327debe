"""What is merged computes what peft computes with `add_weighted_adapter`."""

import pytest

from dpjax.models import load_adapter, merge_adapters
from tests.support.peft_models import (
    TASK_TYPES,
    assert_equal,
    load,
    logits_of,
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
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to:UserWarning"),
]
NAMES, WEIGHTS = ["first", "second", "third"], [0.7, -0.4, 1.3]
# Modules, ranks and scalings that differ.
MIXED = [
    {"r": 4, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"]},
    {
        "r": 2,
        "lora_alpha": 7,
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"v_proj": 3},
        "alpha_pattern": {"q_proj": 1},
        "use_rslora": True,
    },
    {"r": 3, "target_modules": ["v_proj", "up_proj"]},
]
# Ranks that are the same where adapters meet.
EVEN = [
    {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"]},
    {"r": 3, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"]},
    {"r": 3, "lora_alpha": 9, "target_modules": ["v_proj", "q_proj"], "use_rslora": True},
]
TABLES = [
    {"r": 3, "lora_alpha": n, "target_modules": ["embed_tokens", "q_proj"]} for n in (3, 5, 9)
]
ROOTS = [
    {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    {"r": 3, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    {"r": 3, "lora_alpha": 9, "target_modules": ["v_proj", "q_proj"]},
]
CONV1D = [{"r": 3, "lora_alpha": n, "target_modules": ["c_attn", "c_proj"]} for n in (3, 5, 9)]
CASES = [
    *[("llama", MIXED, combination) for combination in ("cat", "svd")],
    *[("llama", EVEN, combination) for combination in ("linear", "cat", "svd")],
    *[("llama", TABLES, combination) for combination in ("linear", "cat", "svd")],
    *[("llama", ROOTS, combination) for combination in ("linear", "cat", "svd")],
    *[("gpt2", CONV1D, combination) for combination in ("linear", "svd")],
]


def without_root_of_rank(adapted):
    """What peft multiplies a merged adapter by once more, after the first one's use_rslora."""
    for layer in adapted.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer) and "merged" in layer.scaling:
            assert layer.scaling["merged"] == pytest.approx(layer.r["merged"] ** 0.5)
            layer.scaling["merged"] = 1.0


@pytest.mark.parametrize(("family", "options", "combination"), CASES)
def test_logits_are_those_of_peft(family, options, combination, tmp_path):
    base = original(family, "causal_lm", tmp_path / "base", tie_word_embeddings=False)
    base.config._name_or_path = str(tmp_path / "base")
    adapted = None
    for name, choice in zip(NAMES, options, strict=True):
        config = peft.LoraConfig(task_type=TASK_TYPES["causal_lm"], **choice)
        if adapted is None:
            adapted = peft.get_peft_model(base, config, adapter_name=name)
        else:
            adapted.add_adapter(name, config)
        adapted.set_adapter(name)
        shake(adapted)
    adapted.save_pretrained(tmp_path)
    adapted.add_weighted_adapter(NAMES, WEIGHTS, "merged", combination_type=combination)
    adapted.set_adapter("merged")
    if options[0].get("use_rslora"):
        without_root_of_rank(adapted)
    folders = [tmp_path / name for name in NAMES]
    merge_adapters(folders, WEIGHTS, tmp_path / "merged", combination=combination)
    model = load(tmp_path / "base", "causal_lm")
    load_adapter(model, tmp_path / "merged")
    assert_equal(ours(model), logits_of(adapted.eval()))
    # peft opens the folder as well.
    fresh = original(family, "causal_lm", tmp_path / "base", tie_word_embeddings=False)
    reopened = peft.PeftModel.from_pretrained(fresh, tmp_path / "merged").eval()
    assert_equal(logits_of(reopened), ours(model))
