"""Checkpoints for texts and pictures: the text model inside."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dpjax.models import (
    LoraConfig,
    add_lora,
    load_causal_lm,
    parse_config,
    read_config,
    save_adapter,
    save_model,
)
from dpjax.models.checkpoint.generation_config import end_token_ids
from tests.support.tiny_checkpoints import (
    random_model,
    raw_config,
    run,
    text_changes,
    write_config,
)

BOTH = pytest.mark.parametrize("family", ["gemma3", "mistral3"])
PICTURES = {
    "vision_tower.patch.weight": np.ones((2, 2), np.float32),
    "multi_modal_projector.norm.weight": np.ones(2, np.float32),
}


def checkpoint(folder, family, *, prefix, head="", pictures="", **outside):
    """A checkpoint for both, whose tensors begin as they did in some version of transformers."""
    model = random_model(family, "causal_lm")
    source = write_config(folder / "config", family, **outside)
    save_model(model, folder / "text", source=source)
    stored = load_file(folder / "text" / "model.safetensors")
    tensors = {pictures + name: value for name, value in PICTURES.items()}
    for name, value in stored.items():
        is_head = name.startswith("lm_head")
        tensors[head + name if is_head else prefix + name.removeprefix("model.")] = value
    save_file(tensors, source / "model.safetensors")
    return model, source


@BOTH
@pytest.mark.parametrize(
    "names",
    [
        {"prefix": "language_model.model.", "head": "language_model."},
        {"prefix": "model.language_model.", "pictures": "model."},
    ],
    ids=["old", "new"],
)
def test_tensors_of_pictures_are_left_out(family, names, tmp_path, caplog):
    model, folder = checkpoint(tmp_path, family, **names)
    with caplog.at_level(logging.WARNING):
        loaded = load_causal_lm(folder)
    assert "the text model alone is read; 2 tensors of multi_modal_projector, vision_tower are" in (
        caplog.text
    )
    ids, mask = jnp.arange(3, 12)[None], jnp.ones((1, 9), bool)
    np.testing.assert_array_equal(run(loaded, ids, mask), run(model, ids, mask))


def test_tensors_of_other_parts_are_refused(tmp_path):
    _, folder = checkpoint(tmp_path, "gemma3", prefix="model.language_model.")
    stored = load_file(folder / "model.safetensors")
    save_file(stored | {"audio_tower.weight": np.ones(2, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"unexpected: .*audio_tower\.weight"):
        load_causal_lm(folder)


@BOTH
def test_the_text_model_is_saved_alone(family, tmp_path):
    inside = raw_config(family)["text_config"]["model_type"]
    outside = {"eos_token_id": [2, 9]}
    _, folder = checkpoint(tmp_path, family, prefix="model.language_model.", **outside)
    save_model(load_causal_lm(folder), tmp_path / "out", source=folder)
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["model_type"] == inside
    assert not saved.keys() & {"text_config", "vision_config", "image_token_index"}
    assert end_token_ids(tmp_path / "out") == end_token_ids(folder) == (2, 9)
    assert read_config(tmp_path / "out").model_type == inside


@BOTH
def test_adapters_have_the_names_of_the_whole_model(family, tmp_path):
    """peft opens them on the checkpoint that they were trained on."""
    model = random_model(family, "causal_lm")
    add_lora(model, LoraConfig(rank=2, target_modules=("q_proj",)), key=jax.random.key(0))
    base = write_config(tmp_path / "base", family)
    save_adapter(model, tmp_path / "adapter", base=base)
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    layer = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    assert {name for name in names if ".0." in name} == {
        f"{layer}.lora_A.weight",
        f"{layer}.lora_B.weight",
    }


def test_sizes_that_files_leave_out_are_those_of_transformers():
    inside = {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 2}
    config = parse_config({"model_type": "gemma3", "text_config": inside})
    assert (config.num_heads, config.head_size, config.vocab_size) == (8, 256, 262_208)


def test_fields_beside_those_of_the_class_count_inside_too():
    """transformers takes the length from beside the scaling, when it makes the model."""
    changed = raw_config("mistral3", **text_changes("mistral3", original_max_position_embeddings=3))
    assert parse_config(changed).rope.query_growth == (0.5, 3.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": None}, "text_config must hold the configuration of the text model"),
        ({"text_config": {"model_type": "llama"}}, "supported in a gemma3: gemma3_text"),
        (text_changes("gemma3", final_logit_softcapping=3.0), "final_logit_softcapping = 3.0"),
        (text_changes("gemma3", num_hidden_layers=10**6), "num_hidden_layers must be at most"),
        (text_changes("gemma3", quantization_config={"bits": 4}), "quantised checkpoints"),
        ({"quantization_config": {"bits": 4}}, "quantised checkpoints"),
    ],
)
def test_what_would_change_the_computation_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        parse_config(raw_config("gemma3") | changes)


def test_a_mistral_inside_with_types_of_layers_is_refused():
    """Saved alone, transformers would read it as another model."""
    inside = raw_config("mistral") | {"layer_types": ["full_attention"] * 2}
    with pytest.raises(ValueError, match="layer_types"):
        parse_config(raw_config("mistral3") | {"text_config": inside})
    plain = raw_config("mistral3") | {"text_config": raw_config("mistral")}
    assert parse_config(plain).rope.query_growth is None
