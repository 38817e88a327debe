"""Adapter folders without peft: what is written, what comes back, what is refused."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from dpjax.models import (
    LoraConfig,
    Trainable,
    add_lora,
    is_own_base,
    load_adapter,
    load_classifier,
    save_adapter,
    save_model,
    split_trainable,
)
from tests.support.tiny_checkpoints import LABELS, random_model, run, write_config

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


def adapt(model, **options):
    options = {"rank": 3, "alpha": 6, "target_modules": ("q_proj", "down_proj")} | options
    add_lora(model, LoraConfig(**options), key=jax.random.key(1))
    return model


def model_of(family="qwen3", task="causal_lm", **changes):
    return random_model(family, task, **changes)


@pytest.fixture
def folder(tmp_path):
    """An adapter of a Qwen3 without its tied head."""
    model = adapt(model_of(), dropout=0.25)
    save_adapter(model, tmp_path / "adapter", base="qwen/base", revision="abc")
    return tmp_path / "adapter"


def edit(folder, *, tensors=None, **entries):
    """Change entries of adapter_config.json, and tensors (None to remove one)."""
    contents = json.loads((folder / CONFIG).read_text()) | entries
    (folder / CONFIG).write_text(json.dumps(contents))
    if tensors:
        stored = load_file(folder / WEIGHTS) | tensors
        stored = {name: value for name, value in stored.items() if value is not None}
        save_file(stored, folder / WEIGHTS)


def leaves(model):
    return nnx.to_pure_dict(nnx.state(model))


def test_what_is_written(folder):
    contents = json.loads((folder / CONFIG).read_text())
    assert (contents["r"], contents["lora_alpha"], contents["peft_type"]) == (3, 6, "LORA")
    assert contents["task_type"] == "CAUSAL_LM"
    assert contents["base_model_name_or_path"] == "qwen/base"
    assert (contents["revision"], contents["lora_dropout"]) == ("abc", 0.25)
    assert contents["modules_to_save"] is None
    assert contents["target_modules"] == [
        f"model.layers.{layer}.{name}"
        for layer in (0, 1)
        for name in ("self_attn.q_proj", "mlp.down_proj")
    ]
    tensors = load_file(folder / WEIGHTS)
    assert len(tensors) == 8
    assert tensors[f"{QUERY}.lora_A.weight"].shape == (3, 32)
    assert tensors[f"{QUERY}.lora_B.weight"].shape == (48, 3)


@pytest.mark.parametrize("written_stacked", [False, True])
@pytest.mark.parametrize("read_stacked", [False, True])
def test_unrolled_and_stacked_layers_write_and_read_the_same(
    tmp_path, written_stacked, read_stacked
):
    options = {"modules_to_save": ("norm", "input_layernorm", "embed_tokens"), "freeze_a": True}
    model = adapt(model_of(scan_layers=written_stacked), **options)
    state = jax.tree.map(lambda leaf: leaf + 0.1, leaves(model))
    model = nnx.merge(nnx.graphdef(model), state)
    save_adapter(model, tmp_path / "first", base="base")
    again = model_of(scan_layers=read_stacked)
    load_adapter(again, tmp_path / "first", freeze_a=True)
    save_adapter(again, tmp_path / "second", base="base")
    first, second = (load_file(tmp_path / name / WEIGHTS) for name in ("first", "second"))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    _, trained, _ = split_trainable(again, Trainable.lora())
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(trained)]
    assert not any("lora_a" in name for name in names)
    assert any("embed_tokens" in name for name in names)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_stacked_layers_write_and_read_biases_and_magnitudes(tmp_path, bias):
    options = {"target_modules": ("c_attn",), "bias": bias, "use_dora": True}
    model = adapt(model_of("gpt2", scan_layers=True), **options)
    rise = {name: 0.1 * (1 + np.arange(2)) for name in ("bias", "lora_magnitude")}

    def move(path, leaf):
        by = rise.get(path[-1].key)
        is_stacked = by is not None and leaf.ndim == 2
        return leaf + by[:, None].astype(np.float32) if is_stacked else leaf

    state = jax.tree_util.tree_map_with_path(move, leaves(model))
    model = nnx.merge(nnx.graphdef(model), state)
    save_adapter(model, tmp_path / "first", base="base")
    again = model_of("gpt2")
    load_adapter(again, tmp_path / "first")
    biases = [layer.self_attn.qkv_proj.base.bias[...] for layer in again.transformer.layers]
    stacked = model.transformer.layers.self_attn.qkv_proj
    np.testing.assert_array_equal(np.stack(biases), stacked.base.bias[...])
    save_adapter(again, tmp_path / "second", base="base")
    first, second = (load_file(tmp_path / name / WEIGHTS) for name in ("first", "second"))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    names = {name.rpartition("h.0.")[2] for name in first if ".h.0." in name}
    assert {"attn.c_attn.base_layer.bias", "attn.c_attn.lora_magnitude_vector"} <= names
    assert ("ln_1.bias" in names) == (bias == "all")


@pytest.mark.parametrize("family", ["phi3", "gpt2"])
@pytest.mark.slow
def test_scanned_adapters_compute_what_unrolled_ones_do(family, tmp_path):
    ids, mask = np.arange(6, dtype=np.int32)[None], np.ones((1, 6), bool)
    model = adapt(model_of(family), target_modules="all-linear")
    model = nnx.merge(nnx.graphdef(model), jax.tree.map(lambda leaf: leaf + 0.02, leaves(model)))
    save_adapter(model, tmp_path / "adapter", base="base")
    unrolled, scanned = model_of(family), model_of(family, scan_layers=True)
    blocks = [jax.tree.map(np.asarray, leaves(block)) for block in unrolled.transformer.layers]
    parameters = leaves(unrolled)
    parameters["transformer"]["layers"] = jax.tree.map(lambda *x: np.stack(x), *blocks)
    scanned = nnx.merge(nnx.graphdef(scanned), parameters)
    plain = run(unrolled, ids, mask)
    for one in (unrolled, scanned):
        load_adapter(one, tmp_path / "adapter")
    expected = np.asarray(run(unrolled, ids, mask))
    assert np.abs(expected - plain).max() > 0.01
    np.testing.assert_allclose(run(scanned, ids, mask), expected, atol=1e-5, rtol=1e-5)


def test_tuning_goes_on_from_what_was_loaded(folder):
    model = model_of()
    load_adapter(model, folder)
    assert (model.lora.rank, model.lora.alpha, model.lora.scaling) == (3, 6, 2.0)
    assert model.lora.dropout == 0.25
    _, trained, _ = split_trainable(model, Trainable.lora())
    assert len(jax.tree.leaves(trained)) == 8


def refused(folder, error, message, model=None):
    model = model_of() if model is None else model
    before = leaves(model)
    with pytest.raises(error, match=message):
        load_adapter(model, folder)
    assert model.lora is None
    assert jax.tree.structure(leaves(model)) == jax.tree.structure(before)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only 'LORA'"),
        ({"use_dora": True}, r"0\.self_attn\.q_proj\.lora_magnitude_vector is missing"),
        ({"lora_bias": True}, "lora_bias = True is not supported: biases of B"),
        ({"rank_pattern": {"q_proj": 4}}, r"has shape \(3, 32\), but .* imply \(4, 32\)"),
        ({"rank_pattern": {"q_proj": 2.5}}, "rank_pattern has 'q_proj=2.5'.*a whole number"),
        ({"rank_pattern": [4]}, r"rank_pattern must be an object, got \[4\]"),
        ({"alpha_pattern": {"q_proj": -4}}, "the alpha of 'q_proj' must be positive"),
        ({"alpha_pattern": {"(": 4}}, "alpha_pattern = '.' is not a regular expression"),
        ({"layers_pattern": 3}, "layers_pattern must be"),
        ({"made_up": 1}, "made_up = 1 is not supported"),
        ({"bias": "some"}, "bias = 'some' must be one of none, all, lora_only"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' is not supported.*convert"),
        ({"init_lora_weights": "loftq"}, "'loftq' is not supported"),
        ({"task_type": "SEQ_CLS"}, "for task_type 'SEQ_CLS', but the model is a CausalLM"),
        ({"target_modules": None}, "target_modules is missing"),
        ({"target_modules": ["q_proj"]}, "has an adapter for .*down_proj.* does not name"),
        ({"target_modules": ["q_proj", "down_proj", "k_proj"]}, "no adapter for .*k_proj"),
        ({"r": 0}, "lora.rank must be a whole number of at least 1, got 0"),
        ({"r": 4}, r"has shape \(3, 32\), but .* imply \(4, 32\)"),
        ({"lora_alpha": "high"}, "adapter_config.json: "),
    ],
)
def test_options_that_are_refused(folder, entries, message):
    edit(folder, **entries)
    refused(folder, ValueError, message)


ROW = np.zeros((3, 32), np.float32)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{QUERY}.lora_magnitude_vector": ROW[0]}, "are for modules that this"),
        ({f"{QUERY}.lora_B.bias": ROW[0]}, "belongs to biases of B"),
        (
            {"base_model.model.model.embed_tokens.lora_embedding_A": ROW},
            "lora_embedding_",
        ),
        ({"base_model.model.model.embed_tokens.base_layer.weight": ROW}, "not the weight of this"),
        ({"model.norm.weight": ROW}, "does not start with 'base_model.model.'"),
        ({f"{QUERY}.lora_B.weight": None}, r"q_proj\.lora_B\.weight is missing"),
        ({f"{QUERY}.lora_A.weight": ROW.astype(np.int32)}, "is int32; only floating-point"),
        ({f"{QUERY}.lora_A.weight": ROW[:, :5]}, r"has shape \(3, 5\).* imply \(3, 32\)"),
        (
            {"base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": ROW},
            "belongs to another base .it was made for 'qwen/base'",
        ),
    ],
)
def test_tensors_that_are_refused(folder, tensors, message):
    edit(folder, tensors=tensors)
    refused(folder, ValueError, message)


def test_adapters_for_another_base_are_refused(folder):
    refused(folder, ValueError, "this gpt2 model does not have", model_of("gpt2"))
    # Qwen3's modules are a part of Llama's under the same names, with heads of another size.
    refused(folder, ValueError, "has shape", model_of("llama"))


def test_adapters_on_some_layers_need_unrolled_ones(tmp_path):
    model = adapt(model_of(), layers_to_transform=(1,))
    save_adapter(model, tmp_path / "adapter", base="base")
    refused(tmp_path / "adapter", ValueError, "in 1 of 2 layers", model_of(scan_layers=True))


def test_an_embedding_without_its_tied_head_is_refused(tmp_path):
    save_adapter(adapt(model_of("gemma"), modules_to_save=("embed_tokens",)), tmp_path, base="base")
    contents = json.loads((tmp_path / CONFIG).read_text())
    assert contents["ensure_weight_tying"] is True
    name = "base_model.model.lm_head.weight"
    head = load_file(tmp_path / WEIGHTS)[name]
    edit(tmp_path, tensors={name: head + 1})
    refused(tmp_path, ValueError, "which differ.*tie_word_embeddings = false", model_of("gemma"))
    edit(tmp_path, ensure_weight_tying=False, tensors={name: None})
    refused(tmp_path, ValueError, "embed_tokens.weight alone", model_of("gemma"))


def test_adapters_on_heads_that_nothing_names_are_refused(tmp_path):
    save_adapter(adapt(model_of("llama")), tmp_path, base="base")
    head = {f"base_model.model.lm_head.lora_{part}.weight": ROW for part in "AB"}
    edit(tmp_path, tensors=head)
    refused(tmp_path, ValueError, "adapter for lm_head, which .* not name", model_of("llama"))


def test_a_classifier_needs_its_head(tmp_path):
    model = model_of("llama", "sequence_classification")
    save_adapter(adapt(model), tmp_path, base="base")
    edit(tmp_path, tensors={"base_model.model.score.weight": None})
    fresh = model_of("llama", "sequence_classification")
    refused(tmp_path, ValueError, r"the adapter brings no score", fresh)


def test_damaged_and_missing_files(folder, tmp_path):
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-7])
    refused(folder, ValueError, "truncated or damaged")
    weights.rename(folder / "adapter_model.bin")
    refused(folder, FileNotFoundError, "only as a pickle")
    (folder / "adapter_model.bin").unlink()
    refused(folder, FileNotFoundError, "has no adapter_model.safetensors")
    (folder / CONFIG).write_text("{")
    refused(folder, ValueError, "not valid JSON")
    (folder / CONFIG).unlink()
    refused(folder, FileNotFoundError, "has no adapter_config.json")


def test_adapters_twice_and_none(folder, tmp_path):
    with pytest.raises(ValueError, match="has no adapters to save"):
        save_adapter(model_of(), tmp_path / "other", base="base")
    assert not (tmp_path / "other").exists()
    model = adapt(model_of())
    with pytest.raises(ValueError, match="has LoRA adapters already"):
        load_adapter(model, folder)


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2"])
def test_a_checkpoint_with_all_that_an_adapter_does_not_bring_is_its_base(family, tmp_path):
    task = "causal_lm" if family == "gpt2" else "sequence_classification"
    base = tmp_path / "base"
    labels = () if family == "gpt2" else LABELS
    source = write_config(tmp_path / "source", family)
    save_model(model_of(family, task), base, source=source, label_names=labels)
    model = adapt(model_of(family, task), target_modules="all-linear")
    assert is_own_base(model, base)
    tensors = load_file(base / "model.safetensors")
    heads = ("pooler", "classifier")
    save_file(
        {name: value for name, value in tensors.items() if not any(h in name for h in heads)},
        base / "model.safetensors",
    )
    # The head comes with the adapter, the pooler of a BERT does not.
    assert is_own_base(model, base) == (family != "bert")


def test_a_checkpoint_with_more_layers_is_not_the_base(tmp_path):
    source, base = write_config(tmp_path / "source", "bert"), tmp_path / "base"
    task = "sequence_classification"
    save_model(model_of("bert", task), base, source=source, label_names=LABELS)
    short = load_classifier(base, label_names=LABELS, key=jax.random.key(0), num_layers=1)
    assert not is_own_base(adapt(short, target_modules="all-linear"), base)
    longer = load_classifier(base, label_names=LABELS, key=jax.random.key(0), pooling="mean")
    assert not is_own_base(adapt(longer, target_modules="all-linear"), base)
