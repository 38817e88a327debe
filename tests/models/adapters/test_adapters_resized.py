"""Adapters that peft wrote after tokens were added load, or are refused for what they hold."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dpjax.models import load_adapter, load_causal_lm
from tests.support.peft_warnings import IGNORE_OLD_NAME
from tests.support.tiny_checkpoints import VOCABULARY, raw_config

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.slow,
    # peft says that it stores embeddings, that it ties them, or that it does not.
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    IGNORE_OLD_NAME,
]
ROWS = VOCABULARY + 4
IDS = np.arange(VOCABULARY - 6, ROWS)[None].astype(np.int32)
BOTH = ["embed_tokens", "lm_head"]
TRAINED = ("modules_to_save", "lora_B", "lora_embedding_A", "trainable_tokens_delta")


@pytest.fixture
def resized(tmp_path):
    """Function that makes a base, adds four tokens, tunes an adapter, and saves both."""

    def make(is_tied, *, is_base_resized=False, **options):
        raw = raw_config("llama", tie_word_embeddings=is_tied)
        config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        model.resize_token_embeddings(ROWS)
        model.save_pretrained(tmp_path / "resized")
        if is_base_resized:
            model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "resized")
        adapted = peft.get_peft_model(
            model,
            peft.LoraConfig(task_type="CAUSAL_LM", **{"target_modules": ["q_proj"], **options}),
        )
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if any(part in name for part in TRAINED):
                    parameter.add_(0.3 * torch.randn_like(parameter))
        adapted.save_pretrained(tmp_path / "adapter")
        return tmp_path / "resized", tmp_path / "adapter"

    return make


def logits_of_peft(base, adapter):
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        logits = peft.PeftModel.from_pretrained(model, adapter)(torch.tensor(IDS).long()).logits
    return logits.numpy()


def load(base, adapter):
    model = load_causal_lm(base)
    load_adapter(model, adapter)
    return model


@pytest.mark.parametrize("is_base_resized", [False, True])
@pytest.mark.parametrize(
    ("is_tied", "options"),
    [
        (False, {}),
        (False, {"modules_to_save": BOTH}),
        (False, {"modules_to_save": ["embed_tokens"]}),
        (False, {"modules_to_save": ["lm_head"]}),
        (True, {}),
        (True, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
        (True, {"modules_to_save": ["lm_head"], "ensure_weight_tying": True}),
        (False, {"trainable_token_indices": [3, VOCABULARY]}),
        (True, {"trainable_token_indices": [3, VOCABULARY]}),
        (False, {"target_modules": ["q_proj", "embed_tokens"]}),
        (False, {"target_modules": ["q_proj", *BOTH]}),
    ],
)
def test_it_computes_what_peft_computes(resized, is_base_resized, is_tied, options):
    base, adapter = resized(is_tied, is_base_resized=is_base_resized, **options)
    found = load(base, adapter)(IDS, np.ones_like(IDS, bool))
    np.testing.assert_allclose(found, logits_of_peft(base, adapter), atol=2e-5)


@pytest.mark.parametrize("modules", [["embed_tokens"], ["lm_head"], BOTH])
def test_a_head_tuned_apart_from_the_embedding_tied_to_it_is_refused(resized, modules):
    base, adapter = resized(True, is_base_resized=True, modules_to_save=modules)
    with pytest.raises(ValueError, match=r"in this model that (is|are) .*a head of its own"):
        load(base, adapter)


def test_a_base_without_the_tokens_is_refused(resized):
    base, adapter = resized(False, modules_to_save=BOTH)
    with pytest.raises(ValueError, match=rf"has {ROWS} rows, this model {VOCABULARY}: .*resize_to"):
        load(base.parent / "base", adapter)


def test_half_an_adapter_on_an_embedding_is_refused(resized):
    base, adapter = resized(False)
    edit(adapter, **{"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((8, ROWS))})
    with pytest.raises(ValueError, match=r"embed_tokens\.lora_embedding_B is missing"):
        load(base, adapter)


def edit(adapter, **tensors):
    stored = load_file(adapter / "adapter_model.safetensors") | tensors
    stored = {name: value for name, value in stored.items() if value is not None}
    save_file(stored, adapter / "adapter_model.safetensors")


HEAD = "base_model.model.lm_head."


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{HEAD}modules_to_save.weight": np.zeros((ROWS, 32), np.float32)}, "differ: which"),
        ({f"{HEAD}weight": None}, "lm_head.weight is missing, there is only lm_head"),
        (
            {f"{HEAD}{n}weight": None for n in ("", "modules_to_save.", "original_module.")},
            "tensor base_model.model.lm_head.weight is missing",
        ),
    ],
)
def test_copies_that_differ_or_stand_alone_are_refused(resized, tensors, message):
    base, adapter = resized(False, modules_to_save=BOTH)
    edit(adapter, **tensors)
    with pytest.raises(ValueError, match=message):
        load(base, adapter)


@pytest.mark.parametrize(
    "entries",
    [
        {"modules_to_save": "lm_head"},
        {"modules_to_save": [1]},
        {"target_modules": [1]},
        {"target_modules": {"a": 1}},
        {"target_modules": "("},
        {"exclude_modules": "("},
        {"layers_to_transform": ["0"]},
        {"r": 10**30},
        {"r": "8"},
        {"r": True},
        {"lora_alpha": 10**400},
        {"lora_alpha": None},
        {"lora_dropout": "0"},
    ],
    ids=repr,
)
def test_entries_of_another_type_are_refused(resized, entries, tmp_path):
    base, adapter = resized(False)
    shutil.copytree(adapter, tmp_path / "changed")
    path = tmp_path / "changed" / "adapter_config.json"
    text = json.dumps(json.loads(path.read_text()) | {name: None for name in entries})
    for name, value in entries.items():
        # An integer of 400 digits is one that Python's json writes as it is.
        text = text.replace(f'"{name}": null', f'"{name}": {json.dumps(value)}')
    path.write_text(text)
    with pytest.raises(ValueError, match=r"adapter_(config\.json|model\.safetensors)"):
        load(base, tmp_path / "changed")
