"""Equality with the originals: transformers and peft on torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.models import (
    LoraConfig,
    LoraLinear,
    add_lora,
    load_classifier,
    load_tokenizer,
    merged_copy,
    save_model,
)
from tests.support.peft_warnings import IGNORE_OLD_NAME

pytestmark = pytest.mark.slow

AB = ("a", "b")
ABC = ("a", "b", "c")
TEXTS = [
    "My knee still hurts, nine weeks after the operation.",
    "refund",
    "Could you please send the invoice of Mrs. Müller-Lüdenscheidt to accounts@example.org?",
    "The film is neither funny nor sad, but it is long and it is loud and it does not end.",
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def forward(torch):
    """Function (torch model, ids, mask) -> last hidden states and logits (None without a head)."""

    def run(model, ids, mask):
        with torch.no_grad():
            outputs = model.eval()(
                input_ids=torch.tensor(np.asarray(ids, np.int64)),
                attention_mask=torch.tensor(np.asarray(mask, np.int64)),
                # By itself transformers counts padding on the left as positions.
                position_ids=torch.tensor(np.maximum(np.cumsum(mask, axis=-1) - 1, 0)),
                output_hidden_states=True,
            )
        logits = outputs.logits.numpy() if "logits" in outputs else None
        return outputs.hidden_states[-1].numpy(), logits

    return run


@pytest.fixture
def bert(torch, tmp_path):
    """Function that has transformers make and save a random BERT with a head."""
    import transformers

    def make(num_labels=3, **changes):
        sizes = {
            "vocab_size": 50,
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "max_position_embeddings": 20,
        }
        torch.manual_seed(0)
        config = transformers.BertConfig(
            **sizes, initializer_range=0.3, num_labels=num_labels, **changes
        )
        model = transformers.BertForSequenceClassification(config)
        model.save_pretrained(tmp_path / "original")
        return model, tmp_path / "original"

    return make


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])
def test_tiny_bert(bert, forward, batch, activation):
    original, folder = bert(hidden_act=activation)
    ids, mask = batch
    expected_hidden, expected_logits = forward(original, ids, mask)
    model = load_classifier(folder, label_names=ABC, key=jax.random.key(0))
    np.testing.assert_allclose(model(ids, mask), expected_logits, atol=1e-5)
    hidden = np.asarray(model.hidden_states(ids, mask))
    np.testing.assert_allclose(hidden[mask], expected_hidden[mask], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_minilm_hidden_states(minilm, forward, side):
    import transformers

    tokenizer = load_tokenizer(minilm)
    tokenizer.padding_side = side
    encoded = tokenizer(TEXTS, padding=True, return_tensors="np")
    ids, mask = encoded["input_ids"], encoded["attention_mask"].astype(bool)
    original = transformers.AutoModel.from_pretrained(minilm)
    expected, _ = forward(original, ids, mask)
    model = load_classifier(minilm, label_names=AB, key=jax.random.key(0), pooling="first")
    hidden = np.asarray(model.hidden_states(jnp.asarray(ids), jnp.asarray(mask)))
    np.testing.assert_allclose(hidden[mask], expected[mask], atol=1e-5)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_saved_model_opens_in_transformers(bert, forward, batch, tmp_path, tuning):
    import transformers

    _, folder = bert(problem_type="regression", dtype="float16")
    model = load_classifier(folder, label_names=AB, key=jax.random.key(0))
    if tuning == "lora":
        add_lora(
            model, LoraConfig(rank=4, alpha=8, target_modules="all-linear"), key=jax.random.key(1)
        )
        randomise_b(model)
    save_model(merged_copy(model), tmp_path / "saved", source=folder, label_names=AB)
    opened, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "saved", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert opened.config.id2label == {0: "a", 1: "b"}
    assert opened.num_labels == 2
    np.testing.assert_allclose(forward(opened, *batch)[1], model(*batch), atol=1e-5)


def test_saved_minilm_opens_in_transformers_with_its_tokenizer(minilm, forward, tmp_path):
    import transformers

    model = load_classifier(minilm, label_names=AB, key=jax.random.key(0), pooling="first")
    save_model(model, tmp_path / "saved", source=minilm, label_names=AB)
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    encoded = tokenizer(TEXTS, padding=True, return_tensors="np")
    ids, mask = encoded["input_ids"], encoded["attention_mask"].astype(bool)
    np.testing.assert_allclose(forward(opened, ids, mask)[1], model(ids, mask), atol=1e-5)


@IGNORE_OLD_NAME
@pytest.mark.parametrize(
    "targets", ["all-linear", ["query", "value"], ["output.dense", "key"], ["dense"]]
)
def test_lora_equals_peft(torch, bert, forward, batch, targets):
    peft = pytest.importorskip("peft")
    original, folder = bert()
    unadapted = forward(original, *batch)[1]
    model = load_classifier(folder, label_names=ABC, key=jax.random.key(0))
    targets = targets if isinstance(targets, str) else tuple(targets)
    add_lora(model, LoraConfig(rank=4, alpha=8, target_modules=targets), key=jax.random.key(1))
    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=4,
        lora_alpha=8,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    adapted = peft.get_peft_model(original, config)
    randomise_b(model)
    layers = lora_layers(model)
    theirs = {
        name.removeprefix("base_model.model.bert."): module
        for name, module in adapted.named_modules()
        if hasattr(module, "lora_A")
    }
    assert sorted(theirs) == sorted(layers)
    with torch.no_grad():
        for name, module in theirs.items():
            a, b = layers[name].lora_a[...], layers[name].lora_b[...]
            module.lora_A["default"].weight.copy_(torch.tensor(np.asarray(a).T))
            module.lora_B["default"].weight.copy_(torch.tensor(np.asarray(b).T))
    expected = forward(adapted, *batch)[1]
    assert np.abs(expected - unadapted).max() > 0.01
    np.testing.assert_allclose(model(*batch), expected, atol=1e-5)


def lora_layers(model):
    """The adapters under the names that transformers gives their layers, spelled out."""
    layers = {"pooler.dense": model.pooler}
    for index, layer in enumerate(model.transformer.layers):
        layers |= {
            f"encoder.layer.{index}.attention.self.query": layer.self_attn.q_proj,
            f"encoder.layer.{index}.attention.self.key": layer.self_attn.k_proj,
            f"encoder.layer.{index}.attention.self.value": layer.self_attn.v_proj,
            f"encoder.layer.{index}.attention.output.dense": layer.self_attn.o_proj,
            f"encoder.layer.{index}.intermediate.dense": layer.mlp.up_proj,
            f"encoder.layer.{index}.output.dense": layer.mlp.down_proj,
        }
    return {name: layer for name, layer in layers.items() if isinstance(layer, LoraLinear)}


def randomise_b(model):
    """Give B random values, so that the adapters do something."""
    for index, layer in enumerate(lora_layers(model).values()):
        layer.lora_b[...] = 0.3 * jax.random.normal(jax.random.key(index), layer.lora_b.shape)
