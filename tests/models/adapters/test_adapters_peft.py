"""Adapters go to peft and come back with equal logits, for every family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from dpjax.models import (
    Loading,
    LoraConfig,
    add_lora,
    load_adapter,
    load_causal_lm,
    load_classifier,
    load_masked_lm,
    load_token_classifier,
    merge_lora,
    save_adapter,
)
from tests.support.peft_warnings import IGNORE_OLD_NAME
from tests.support.tiny_checkpoints import CONFIGS, DECODERS, LABELS, ragged_batch, raw_config

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.slow,
    IGNORE_OLD_NAME,
    # peft sets fan_in_fan_out by itself where a model has both kinds of layers.
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
]
_AUTO = {
    "causal_lm": ("AutoModelForCausalLM", "CAUSAL_LM"),
    "masked_lm": ("AutoModelForMaskedLM", None),
    "sequence_classification": ("AutoModelForSequenceClassification", "SEQ_CLS"),
    "token_classification": ("AutoModelForTokenClassification", "TOKEN_CLS"),
}
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


def original(family, task, folder, **changes):
    """A random model made by transformers, written to `folder`."""
    import transformers

    raw = raw_config(family, num_labels=len(LABELS), **changes)
    config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
    torch.manual_seed(0)
    auto = getattr(transformers, _AUTO[task][0])
    made = auto.from_config(config, attn_implementation="eager").eval()
    made.save_pretrained(folder)
    return made


def load(folder, task, **loading):
    loading = Loading(**loading)
    if task == "causal_lm":
        return load_causal_lm(folder, loading=loading)
    if task == "masked_lm":
        return load_masked_lm(folder, loading=loading)
    make = load_classifier if task == "sequence_classification" else load_token_classifier
    return make(folder, label_names=LABELS, key=jax.random.key(0), loading=loading)


def logits_of(made):
    """Of the rows without padding on the left, whose positions all families count alike."""
    ids, mask = (np.asarray(part)[:2] for part in ragged_batch())
    ids = np.where(mask, ids, made.config.pad_token_id)
    with torch.no_grad():
        outputs = made(
            input_ids=torch.tensor(ids, dtype=torch.long),
            attention_mask=torch.tensor(mask, dtype=torch.long),
        )
    logits = outputs.logits.numpy()
    return logits if logits.ndim == 2 else logits[mask]


def ours(model):
    ids, mask = (np.asarray(part)[:2] for part in ragged_batch())
    logits = np.asarray(model(jnp.asarray(ids), jnp.asarray(mask)))
    return logits if logits.ndim == 2 else logits[mask]


def assert_equal(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


def moved(model):
    """The same model with other values of all that its adapter brings."""
    lora = model.lora
    graphdef, state = nnx.split(model)

    def move(path, leaf):
        names = [str(getattr(part, "key", part)) for part in path]
        if any("lora_" in name for name in names) or "classifier" in names:
            key = jax.random.key(len(jax.tree_util.keystr(path)))
            return leaf + 0.1 * jax.random.normal(key, leaf.shape)
        return leaf

    parameters = jax.tree_util.tree_map_with_path(move, nnx.to_pure_dict(state))
    model = nnx.merge(graphdef, parameters)
    assert model.lora == lora
    return model


def shake(adapted):
    """Give what peft would train other values."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


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
    config = peft.LoraConfig(task_type=_AUTO[task][1], r=3, lora_alpha=5, **options)
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
