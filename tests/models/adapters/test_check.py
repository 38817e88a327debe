"""An adapter that was written is read back and compared with what was trained."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dpjax.models import (
    LoraConfig,
    Trainable,
    add_lora,
    check_adapter,
    save_adapter,
    split_trainable,
)
from tests.support.tiny_checkpoints import random_model

WEIGHTS = "adapter_model.safetensors"


def tuned_model(family="qwen3", task="causal_lm", *, stacked=False, **options):
    model = random_model(family, task, scan_layers=stacked)
    options = {"rank": 3, "alpha": 6.0, "target_modules": ("q_proj", "down_proj")} | options
    add_lora(model, LoraConfig(**options), key=jax.random.key(1))
    split = split_trainable(model, Trainable("lora"))
    leaves, treedef = jax.tree.flatten(split.trainable)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return split.replace(trainable=jax.tree.unflatten(treedef, moved))


@pytest.mark.parametrize(
    ("family", "task", "options"),
    [
        ("qwen3", "causal_lm", {}),
        ("qwen3", "causal_lm", {"freeze_a": True, "dropout": 0.2}),
        ("qwen3", "causal_lm", {"stacked": True}),
        ("qwen3", "causal_lm", {"modules_to_save": ("embed_tokens",)}),
        ("bert", "sequence_classification", {"target_modules": ("query",)}),
    ],
)
def test_what_was_written_is_what_was_trained(tmp_path, family, task, options):
    tuned = tuned_model(family, task, **options)
    save_adapter(tuned.merge(), tmp_path / "adapter", base="base")
    check_adapter(tuned, tmp_path / "adapter")


@pytest.mark.parametrize("task", ["causal_lm", "sequence_classification"])
def test_each_tensor_is_compared(tmp_path, task):
    tuned = tuned_model("qwen3", task)
    save_adapter(tuned.merge(), tmp_path, base="base")
    written = load_file(tmp_path / WEIGHTS)
    assert (len(written) > 8) == (task == "sequence_classification")
    for name, value in written.items():
        save_file(written | {name: np.nextafter(value, np.float32(9))}, tmp_path / WEIGHTS)
        with pytest.raises(ValueError, match="must hold what was trained"):
            check_adapter(tuned, tmp_path)


def test_another_scale_and_untrained_weights_are_found(tmp_path):
    tuned = tuned_model()
    save_adapter(tuned_model(alpha=3.0).merge(), tmp_path, base="base")
    with pytest.raises(
        ValueError, match=r"must scale the adapter of .* by 2 as in training, got 1"
    ):
        check_adapter(tuned, tmp_path)
    untrained = tuned.replace(trainable=jax.tree.map(np.zeros_like, tuned.trainable))
    save_adapter(untrained.merge(), tmp_path, base="base")
    with pytest.raises(ValueError, match=r"other values for .*lora_"):
        check_adapter(tuned, tmp_path)
