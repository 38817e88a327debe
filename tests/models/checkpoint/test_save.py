import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open

from dpjax.models import LoraConfig, add_lora, load_classifier, merged_copy, save_model

ABC = ("a", "b", "c")


@pytest.fixture(params=["full", "lora"])
def tuned(request, model):
    """A model with other weights than its checkpoint."""
    if request.param == "lora":
        add_lora(
            model, LoraConfig(rank=2, alpha=4, target_modules="all-linear"), key=jax.random.key(1)
        )
    graphdef, state = nnx.split(model)
    parameters = jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf) + 0.05), nnx.to_pure_dict(state)
    )
    return nnx.merge(graphdef, parameters)


def test_saved_model_is_read_back_with_equal_logits(tuned, folder, tmp_path, batch):
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(tuned)))
    logits = tuned(*batch)
    save_model(merged_copy(tuned), tmp_path / "runs" / "out", source=folder, label_names=ABC)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(tuned)), before)
    again = load_classifier(tmp_path / "runs" / "out", label_names=ABC, key=jax.random.key(0))
    np.testing.assert_allclose(again(*batch), logits, atol=1e-5)


def test_folder_holds_config_weights_and_tokenizer_only(
    write_checkpoint, bert_config, tmp_path, model
):
    stale = {"torch_dtype": "float16", "problem_type": "regression", "_num_labels": 1}
    source = write_checkpoint("source", config=bert_config | stale)
    for name in ("vocab.txt", "tokenizer.json", "modules.json", "README.md"):
        (source / name).write_text(name)
    out = tmp_path / "out"
    save_model(model, out, source=source, label_names=("ä", "b", "c"))
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "vocab.txt",
    ]
    assert (out / "vocab.txt").read_text() == "vocab.txt"
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config == bert_config | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "ä", "1": "b", "2": "c"},
        "label2id": {"ä": 0, "b": 1, "c": 2},
        "dtype": "float32",
    }
    with safe_open(out / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118


def test_labels_come_back_in_the_order_asked_for(model, folder, tmp_path, batch):
    save_model(model, tmp_path / "out", source=folder, label_names=ABC)
    again = load_classifier(tmp_path / "out", label_names=("c", "a", "b"), key=jax.random.key(0))
    np.testing.assert_array_equal(again(*batch), model(*batch)[:, jnp.asarray([2, 0, 1])])


def test_bad_arguments(model, folder, tmp_path):
    with pytest.raises(ValueError, match="model has 3 labels, got 2 names"):
        save_model(model, tmp_path / "out", source=folder, label_names=("a", "b"))
    with pytest.raises(ValueError, match="the folder of the original checkpoint"):
        save_model(model, folder, source=folder, label_names=ABC)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tuned", ["lora"], indirect=True)
def test_a_model_with_adapters_is_refused(tuned, folder, tmp_path):
    with pytest.raises(ValueError, match=r"save merged_copy\(model\), or .*save_adapter"):
        save_model(tuned, tmp_path / "out", source=folder, label_names=ABC)
    assert not (tmp_path / "out").exists()
