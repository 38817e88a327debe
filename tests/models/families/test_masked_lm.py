"""The head for masked tokens: tied and untied decoders, its bias under two names, a missing one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dpjax.models import (
    LoraConfig,
    MaskedLM,
    Trainable,
    add_lora,
    load_masked_lm,
    save_model,
    split_trainable,
)
from tests.support.tiny_checkpoints import ragged_batch, random_model, raw_config, run, write_config

ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert")


def saved(family, tmp_path, **changes):
    folder = tmp_path / "saved"
    model = random_model(family, "masked_lm", **changes)
    save_model(model, folder, source=write_config(tmp_path / "source", family))
    return model, folder


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("family", ["bert", pytest.param("distilbert", marks=pytest.mark.slow)])
def test_an_untied_decoder_equals_transformers_both_ways(family, tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    raw = raw_config(family, tie_word_embeddings=False)
    config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
    made = transformers.AutoModelForMaskedLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(tmp_path / "original")
    model = load_masked_lm(tmp_path / "original")
    save_model(model, tmp_path / "again", source=tmp_path / "original")
    opened, report = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "again", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids, mask = (np.asarray(part)[:1] for part in ragged_batch())
    inputs = {"input_ids": torch.tensor(ids, dtype=torch.long)}
    with torch.no_grad():
        expected, again = made(**inputs).logits.numpy(), opened.eval()(**inputs).logits.numpy()
    assert not model.config.tied_head
    np.testing.assert_allclose(run(model, ids, mask), expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(again, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("tied_head", [True, False])
def test_single_words_have_the_logits_that_all_have(family, tied_head):
    model = random_model(family, "masked_lm", tied_head=tied_head)
    hidden = jax.random.normal(jax.random.key(3), (5, model.config.hidden_size))
    rows = jnp.array([7, 3, 3])
    everything = model.logits(hidden)
    np.testing.assert_allclose(model.word_logits(hidden, rows), everything[:, rows], atol=1e-6)


def test_single_words_of_a_decoder_have_the_logits_that_all_have():
    model = random_model("gemma2", "causal_lm", logit_softcap=2.0)
    hidden = jax.random.normal(jax.random.key(3), (5, model.config.hidden_size))
    rows = jnp.array([7, 3])
    np.testing.assert_allclose(
        model.word_logits(hidden, rows), model.logits(hidden)[:, rows], atol=1e-6
    )


def test_an_old_checkpoint_has_the_bias_under_its_other_name(tmp_path):
    model, folder = saved("bert", tmp_path)
    name, other = "cls.predictions.bias", "cls.predictions.decoder.bias"
    edit(folder, lambda tensors: {other if key == name else key: v for key, v in tensors.items()})
    found = load_masked_lm(folder)
    np.testing.assert_array_equal(found.vocab_bias[...], model.vocab_bias[...])


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("bert", "cls.predictions.transform.dense.weight"),
        ("roberta", "lm_head.layer_norm.bias"),
        ("distilbert", "vocab_projector.bias"),
    ],
)
def test_a_missing_head_is_named(family, name, tmp_path):
    _, folder = saved(family, tmp_path)
    edit(folder, lambda tensors: {key: v for key, v in tensors.items() if key != name})
    with pytest.raises(ValueError, match=f"lacks {name}: its head for masked tokens"):
        load_masked_lm(folder)


def test_a_decoder_has_no_such_head(tmp_path):
    folder = write_config(tmp_path / "gpt2", "gpt2")
    with pytest.raises(ValueError, match="no head for masked lm"):
        load_masked_lm(folder)
    with pytest.raises(ValueError, match="no head for masked tokens"):
        random_model("gpt2", "masked_lm")


def trained_parts(model, trainable):
    return {path[0] for path in trainable.paths(model)}


def test_what_tuning_trains_of_the_head():
    model = random_model("bert", "masked_lm")
    assert trained_parts(model, Trainable.head()) == {"transform", "transform_norm"}
    assert trained_parts(model, Trainable.last_layers(1)) == {"transformer"}
    assert "vocab_bias" in trained_parts(model, Trainable.full())
    add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
    assert isinstance(split_trainable(model, Trainable.lora()).merge(), MaskedLM)
    assert trained_parts(model, Trainable.lora()) == {"transformer"}


@pytest.mark.parametrize("name", ["cls", "word_embeddings", "embeddings"])
def test_the_head_cannot_be_saved_beside_adapters(name):
    """transformers would copy a tied embedding, and the head would stay as it was."""
    config = LoraConfig(rank=2, modules_to_save=(name,))
    with pytest.raises(ValueError, match=f"'{name}' is the head for masked tokens"):
        add_lora(random_model("bert", "masked_lm"), config, key=jax.random.key(0))
    if name != "cls":
        untied = random_model("bert", "masked_lm", tied_head=False)
        add_lora(untied, config, key=jax.random.key(0))
