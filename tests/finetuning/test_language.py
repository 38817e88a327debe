"""Runs that teach a decoder to write, on every format of records."""

import gzip
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import dpjax
from dpjax.models import (
    load_adapter,
    load_causal_lm,
    load_tokenizer,
    merge_lora,
)
from tests.support.chat_shapes import unmarked

FORMATS = ("text", "prompt_completion", "messages")


@pytest.mark.slow
@pytest.mark.parametrize("record_format", FORMATS)
def test_a_decoder_learns_to_write(language_options, record_format):
    result = dpjax.finetune(**language_options(record_format))
    losses = [row["loss"] for row in result.metrics]
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert result.eval_accuracy is None
    assert result.eval_perplexity < 10
    assert result.epsilon > 0
    report = (result.output_dir / "report.md").read_text()
    assert "Perplexity of held-out tokens" in report
    if record_format == "text":
        assert result.samples == []
    else:
        right = [sample.written == sample.expected for sample in result.samples]
        assert len(right) == 4 and sum(right) >= 3
        assert result.samples[0].written in report
    privacy = json.loads((result.output_dir / "privacy.json").read_text())
    assert "labels" not in json.dumps(privacy["assumptions"])


@pytest.mark.slow
def test_lora_in_other_ways_of_computing_gives_the_same_model(language_options, tmp_path):
    options = language_options("prompt_completion", tuning="lora", lora={"rank": 4})
    options["training"]["num_steps"] = 4
    plain = dpjax.finetune(**options)
    assert "on all-linear |" in (plain.output_dir / "report.md").read_text()
    other = dpjax.finetune(
        **options
        | {
            "output_dir": tmp_path / "other",
            "compute": {"scan_layers": True, "rematerialise": True, "vocab_chunk": 64},
        }
    )
    # Stacked adapters start from other random numbers.
    assert other.eval_perplexity == pytest.approx(plain.eval_perplexity, rel=0.2)
    base = load_causal_lm(options["model"])
    load_adapter(base, other.output_dir / "adapter")
    merge_lora(base)
    opened = load_causal_lm(other.output_dir / "model")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        nnx.state(base),
        nnx.state(opened),
    )
    assert opened.config == load_causal_lm(plain.output_dir / "model").config


@pytest.mark.slow
def test_share_gpt_in_pieces_without_marks_gives_the_same_model(language_options, tmp_path):
    """The template's marks are taken out, and the files are other ones with the same records."""
    options = language_options("messages")
    options["training"]["num_steps"] = 2
    plain = dpjax.finetune(**options)
    bare = tmp_path / "bare"
    shutil.copytree(options["model"], bare)
    template = bare / "chat_template.jinja"
    template.write_text(unmarked(template.read_text()))
    rows = [json.loads(line) for line in options["train_data"].read_text().splitlines()]
    names = {"user": "human", "assistant": "gpt"}
    talks = [
        [{"from": names[said["role"]], "value": said["content"]} for said in row["messages"]]
        for row in rows
    ]
    for name, part in (("1.json.gz", talks[:90]), ("2.json.gz", talks[90:])):
        written = json.dumps([{"conversations": talk} for talk in part])
        (tmp_path / name).write_bytes(gzip.compress(written.encode()))
    changes = {"model": bare, "train_data": str(tmp_path / "*.json.gz")}
    other = dpjax.finetune(**options | changes | {"output_dir": tmp_path / "other"})
    written = [
        load_file(result.output_dir / "model" / "model.safetensors") for result in (plain, other)
    ]
    jax.tree.map(np.testing.assert_array_equal, *written)
    config = json.loads((other.output_dir / "config.json").read_text())
    assert config["train_data"]["record_format"] == "conversations"


@pytest.mark.slow
def test_a_frozen_base_in_bfloat16_is_merged_in_bfloat16(language_options):
    options = language_options("text", tuning="lora", compute={"frozen_dtype": "bfloat16"})
    options["training"]["num_steps"] = 2
    result = dpjax.finetune(**options)
    merged, adapter = (
        load_file(result.output_dir / name)
        for name in ("model/model.safetensors", "adapter/adapter_model.safetensors")
    )
    assert {tensor.dtype.name for tensor in merged.values()} == {"bfloat16"}
    assert {tensor.dtype.name for tensor in adapter.values()} == {"float32"}
    base = load_file(options["model"] / "model.safetensors")
    name = "transformer.wpe.weight"
    np.testing.assert_array_equal(merged[name], base[name].astype(merged[name].dtype))


@pytest.mark.slow
def test_a_tuned_model_opens_in_transformers(language_options):
    torch = pytest.importorskip("torch")
    import transformers

    options = language_options("prompt_completion")
    options["training"]["num_steps"] = 3
    folder = dpjax.finetune(**options).output_dir / "model"
    opened = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = load_tokenizer(folder, needs_padding=False)("the sky is blue")["input_ids"]
    with torch.no_grad():
        expected = opened(torch.tensor([ids])).logits[0].numpy()
    ours = load_causal_lm(folder)
    found = ours(jax.numpy.asarray(ids), jax.numpy.ones(len(ids), bool))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "mean"}, "pooling has no meaning with task=causal_lm"),
        ({"num_layers": 1}, "num_layers has no meaning"),
        ({"training": {"label_smoothing": 0.1}}, r"training\.label_smoothing has no meaning"),
        ({"task": "sequence_classification", "separator": " "}, "separator has no meaning"),
        ({"generation": {"max_new_tokens": 40}}, "more than the 48 positions"),
        ({"compute": {"vocab_chunk": 0}}, "vocab_chunk must be at least 1, got 0"),
    ],
)
def test_options_of_the_other_task_are_refused(language_options, changes, message):
    with pytest.raises(ValueError, match=message):
        dpjax.finetune(**language_options("prompt_completion", **changes))


def test_an_encoder_cannot_write(language_options, tiny_checkpoint):
    with pytest.raises(ValueError, match="no head for causal lm"):
        dpjax.finetune(**language_options("text", model=tiny_checkpoint))
