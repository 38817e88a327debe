"""Adapters on embeddings and heads, and rows of tokens, go to peft and come back."""

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
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
CLASSIFIER = "sequence_classification"
TIED = {"ensure_weight_tying": True}
FILES = [
    ("llama", "causal_lm", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    ("llama", "causal_lm", {"target_modules": ["lm_head"], "rank_pattern": {"lm_head": 2}}),
    ("gpt2", "causal_lm", {"target_modules": ["c_attn", "lm_head", "wpe"], **TIED}),
    ("gemma", "causal_lm", {"target_modules": ["q_proj", "model.embed_tokens"], **TIED}),
    ("bert", CLASSIFIER, {"target_modules": ["query", "word_embeddings"]}),
    ("gpt2", "causal_lm", {"target_modules": ["c_attn"], "trainable_token_indices": [7, 3, 20]}),
    (
        "llama",
        "causal_lm",
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [9, 4]}},
    ),
    (
        "bert",
        CLASSIFIER,
        {"target_modules": ["query"], "trainable_token_indices": {"word_embeddings": [5, 6]}},
    ),
]


@pytest.mark.parametrize(("family", "task", "options"), FILES)
def test_files_of_peft_go_in_and_out(family, task, options, tmp_path):
    base = original(family, task, tmp_path / "base")
    plain = logits_of(base)
    config = peft.LoraConfig(task_type=TASK_TYPES[task], **{"r": 3, "lora_alpha": 5} | options)
    adapted = peft.get_peft_model(base, config).eval()
    shake(adapted)
    adapted.save_pretrained(tmp_path / "theirs")
    expected = logits_of(adapted)
    assert np.abs(expected - plain).max() > 0.01
    model = load(tmp_path / "base", task)
    load_adapter(model, tmp_path / "theirs")
    assert_equal(ours(model), expected)
    assert_equal(ours(merged_copy(model)), expected)
    save_adapter(model, tmp_path / "ours", base=tmp_path / "base")
    fresh = original(family, task, tmp_path / "base")
    assert_equal(logits_of(peft.PeftModel.from_pretrained(fresh, tmp_path / "ours")), expected)
    again = load(tmp_path / "base", task)
    load_adapter(again, tmp_path / "ours")
    assert again.lora == model.lora
    np.testing.assert_array_equal(ours(again), ours(model))


OWN = [
    ("gpt2", "causal_lm", {"target_modules": ("c_attn", "wte")}),
    ("qwen2", "causal_lm", {"target_modules": ("embed_tokens", "lm_head", "v_proj")}),
    ("gemma", "causal_lm", {"target_modules": ("q_proj",), "trainable_token_indices": (8, 2)}),
]


@pytest.mark.parametrize(("family", "task", "options"), OWN)
def test_files_of_dpjax_are_opened_by_peft(family, task, options, tmp_path):
    base = original(family, task, tmp_path / "base")
    model = load(tmp_path / "base", task)
    add_lora(model, LoraConfig(**{"rank": 3, "alpha": 5} | options), key=jax.random.key(1))
    assert_equal(ours(model), ours(load(tmp_path / "base", task)))
    model = moved(model)
    save_adapter(model, tmp_path / "ours", base=tmp_path / "base")
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    assert_equal(ours(model), logits_of(adapted))
    stored = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    theirs = peft.get_peft_model_state_dict(adapted)
    assert stored.keys() == {name for name in theirs if ".base_layer." not in name}


@pytest.mark.parametrize(
    ("targets", "options"),
    [(["c_attn", "wte"], {}), (["c_attn", "lm_head"], {}), (["c_attn", "wte"], TIED)],
)
def test_a_tied_embedding_that_peft_unties_is_refused(targets, options, tmp_path):
    base = original("gpt2", "causal_lm", tmp_path / "base")
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=targets, **options))
    shake(adapted)
    adapted.save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "base", "causal_lm")
    with pytest.raises(ValueError, match=r"alone, but .*tie_word_embeddings = false"):
        load_adapter(model, tmp_path / "theirs")
    assert model.lora is None
