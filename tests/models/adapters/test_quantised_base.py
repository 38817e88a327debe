"""Adapters on quantised layers: merged, saved, loaded, started afresh, and what is refused."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from dpjax.models import (
    CausalLM,
    Loading,
    LoraConfig,
    Trainable,
    add_lora,
    base_model,
    check_adapter,
    fresh_lora,
    has_lora,
    load_adapter,
    load_causal_lm,
    merged_copy,
    read_config,
    save_adapter,
    save_model,
    split_trainable,
)
from dpjax.models.net.quantised import quantised_layers
from tests.support.tiny_checkpoints import ragged_batch, run, write_config

SOME = ("q_proj", "down_proj")


@pytest.fixture(scope="module", params=["int8", "nf4"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    source = write_config(root / "source", "llama", hidden_size=64, intermediate_size=96)
    save_model(CausalLM(read_config(source), rngs=nnx.Rngs(0)), root / "base", source=source)
    return root / "base"


def tuned(folder, *, lora=None, **loading):
    """A model with adapters that are not fresh any more, split."""
    model = load_causal_lm(folder, loading=Loading(**loading))
    lora = LoraConfig(rank=2, target_modules=SOME) if lora is None else lora
    add_lora(model, lora, key=jax.random.key(0))
    split = split_trainable(model, Trainable.lora())
    return split.replace(trainable=jax.tree.map(lambda leaf: leaf + 0.03, split.trainable))


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.quick_cases(1)
def test_as_beside_the_rounded_weights(base, kind, tmp_path, scan_layers, use_dora):
    loading = {"scan_layers": scan_layers}
    plain = load_causal_lm(base, loading=Loading(quantise=kind))
    save_model(plain, tmp_path / "rounded", source=base)
    lora = LoraConfig(rank=2, target_modules=SOME, use_dora=use_dora)
    held = tuned(base, lora=lora, quantise=kind, **loading)
    full = tuned(tmp_path / "rounded", lora=lora, **loading)
    batch = ragged_batch()
    logits = run(held.merge(), *batch)
    np.testing.assert_allclose(logits, run(full.merge(), *batch), rtol=1e-6, atol=1e-6)
    merged = merged_copy(held.merge())
    assert not has_lora(merged)
    save_model(merged, tmp_path / "merged", source=base)
    again = load_causal_lm(tmp_path / "merged", loading=Loading(**loading))
    np.testing.assert_allclose(run(again, *batch), logits, atol=2e-5)
    save_model(merged_copy(full.merge()), tmp_path / "merged_full", source=base)
    found, expected = (
        load_file(tmp_path / name / "model.safetensors") for name in ("merged", "merged_full")
    )
    for name, weight in expected.items():
        np.testing.assert_allclose(found[name], weight, atol=1e-6, err_msg=name)
    fresh = [fresh_lora(s.trainable, s.frozen, key=jax.random.key(1)) for s in (held, full)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *fresh)


def test_merged_weights_are_in_the_dtype_of_the_parameters(base, kind, tmp_path):
    split = tuned(base, quantise=kind, param_dtype="bfloat16", scan_layers=True)
    save_model(merged_copy(split.merge()), tmp_path / "merged", source=base)
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype.name for tensor in tensors.values()} == {"bfloat16"}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_adapter_is_saved_as_ever_and_says_what_its_base_was(base, kind, tmp_path):
    split = tuned(base, quantise=kind)
    save_adapter(split.merge(), tmp_path / "held", base=base)
    check_adapter(split, tmp_path / "held")
    save_adapter(tuned(base).merge(), tmp_path / "full", base=base)
    configs, tensors = [], []
    for name in ("held", "full"):
        configs.append(json.loads((tmp_path / name / "adapter_config.json").read_text()))
        tensors.append(load_file(tmp_path / name / "adapter_model.safetensors"))
    assert configs[0].pop("dpjax_quantise") == kind
    assert configs[0] == configs[1]
    for name, tensor in tensors[1].items():
        np.testing.assert_array_equal(tensors[0][name], tensor)
    for quantise in (kind, "none"):
        again = load_causal_lm(base, loading=Loading(quantise=quantise))
        load_adapter(again, tmp_path / "held")
        assert again.lora.rank == 2


def test_peft_opens_the_adapter(base, kind, tmp_path):
    peft = pytest.importorskip("peft")
    save_adapter(tuned(base, quantise=kind).merge(), tmp_path / "adapter", base=base)
    with pytest.warns(UserWarning, match=r"\['dpjax_quantise'\].* these are ignored"):
        config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    assert config.r == 2


def test_the_base_is_shared_and_stays_quantised(base, kind):
    model = tuned(base, quantise=kind).merge()
    assert len(quantised_layers(base_model(model))) == 2 * 7
    assert len(quantised_layers(model)) == 2 * 7


def test_what_needs_the_weights_is_refused(base, kind, tmp_path):
    model = load_causal_lm(base, loading=Loading(quantise=kind))
    saved = LoraConfig(rank=2, target_modules=("q_proj",), modules_to_save=("up_proj",))
    with pytest.raises(ValueError, match=rf"modules_to_save means model.*up_proj.*\({kind}\)"):
        add_lora(model, saved, key=jax.random.key(0))
    assert not has_lora(model)
    others = LoraConfig(rank=2, modules_to_save=("norm", "lm_head"), bias="none")
    add_lora(model, others, key=jax.random.key(0))
    assert "lm_head" in split_trainable(model, Trainable.lora()).trainable
    save_adapter(tuned(base).merge(), tmp_path / "adapter", base=base)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": "pissa"}))
    again = load_causal_lm(base, loading=Loading(quantise=kind))
    with pytest.raises(ValueError, match=rf"'pissa' started .*\({kind}\).* quantise=none"):
        load_adapter(again, tmp_path / "adapter")
