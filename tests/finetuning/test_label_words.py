"""Whole runs that read labels off the model's own language head."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import verify_report
from flax import nnx
from safetensors.numpy import load_file, save_file

import dpjax
from dpjax.finetuning import FinetuneConfig, classify, set_up
from dpjax.finetuning.setup.identity import check_same
from dpjax.finetuning.setup.steps import abstract_split
from dpjax.models import (
    count_parameters,
    load_causal_lm,
    load_masked_lm,
)
from dpjax.privatize import clipped_grad
from tests.support.owned_records import author_of_each, owned_file
from tests.support.word_checkpoints import DECODER, ENCODER, write_checkpoint

TEMPLATE = "{text} very {mask} film"
WORDS = ("good=great, lovely", "bad=terrible")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("encoder"), ENCODER, is_causal=False)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("decoder"), DECODER, is_causal=True)


@pytest.fixture
def by_words(options, encoder):
    options["model"] = str(encoder)
    options |= {name: str(options[name]) for name in ("train_data", "eval_data", "output_dir")}
    options["head"] = {"template": TEMPLATE, "label_words": WORDS}
    options["privacy"] = {"noise_multiplier": 1.0, "delta": 1e-5, "clip_norm": 0.5}
    options["training"] |= {"num_steps": 3}
    return options


def test_a_run_of_an_encoder(by_words):
    result = dpjax.finetune(**by_words)
    assert result.eval_accuracy_before is not None
    assert result.eval_accuracy_before == dpjax_accuracy(by_words, by_words["model"])
    assert result.eval_accuracy == dpjax_accuracy(by_words, result.output_dir / "model")
    assert any(TEMPLATE in line for line in result.privacy["assumptions"])
    report = (result.output_dir / "report.md").read_text()
    assert f"before tuning, at no ε | {result.eval_accuracy_before:.4f}" in report
    before, after = load_masked_lm(by_words["model"]), load_masked_lm(result.output_dir / "model")
    for name in ("transform", "transform_norm"):
        pair = (nnx.state(getattr(model, name)) for model in (before, after))
        jax.tree.map(np.testing.assert_array_equal, *pair)
    np.testing.assert_array_equal(before.vocab_bias[...], after.vocab_bias[...])
    kernels = [each.transformer.layers[1].self_attn.q_proj.kernel[...] for each in (before, after)]
    assert np.any(kernels[0] != kernels[1])
    assert (result.output_dir / "adapter").is_dir()
    labels = classify(result.output_dir, ["good film", "film"])
    assert len(labels) == 2 and set(labels) <= {"good", "bad"}


def dpjax_accuracy(options, folder):
    """Computed record by record, from all logits of the model in a folder."""
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), load_masked_lm(folder)
    lines = Path(options["eval_data"]).read_text().splitlines()[1:]
    rows = [tokenizer.convert_tokens_to_ids(word) for word in ("great", "lovely", "terrible")]
    num_right = 0
    for text, label in (line.split(",") for line in lines):
        ids = tokenizer(text.strip() + " very [MASK] film")["input_ids"]
        logits = np.asarray(model(np.array(ids), np.ones(len(ids), bool)), np.float64)
        great, lovely, terrible = np.exp(logits[ids.index(4)][rows])
        num_right += ("good" if (great + lovely) / 2 > terrible else "bad") == label
    return num_right / len(lines)


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["full", "bias", "head"])
def test_other_tunings_of_an_encoder(by_words, tuning):
    result = dpjax.finetune(**by_words | {"tuning": tuning})
    assert result.eval_loss is not None and not result.warnings
    load_masked_lm(result.output_dir / "model")


def test_a_run_of_a_decoder(by_words, decoder):
    head = {"template": "{text} very", "label_words": WORDS}
    result = dpjax.finetune(**by_words | {"model": str(decoder), "head": head})
    assert result.eval_accuracy_before is not None and not result.warnings
    load_causal_lm(result.output_dir / "model")
    assert len(classify(result.output_dir, ["film"])) == 1


@pytest.mark.slow
def test_canaries_are_read_in_the_template(by_words):
    by_words["audit"] = {"num_canaries": 30, "most_share": 0.5}
    by_words["privacy"]["noise_multiplier"] = 0.5
    result = dpjax.finetune(**by_words)
    assert result.audit is not None and not result.warnings


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["head", "last_layers", "lora"])
def test_what_is_frozen_is_computed_once_with_the_same_result(by_words, tmp_path, tuning):
    by_words["training"] |= {"num_steps": 12}
    by_words |= {"tuning": tuning, "num_trained_layers": 1 if tuning == "last_layers" else None}
    if tuning == "lora":
        by_words["lora"] = {"rank": 2, "layers_to_transform": (2,)}
    results = []
    for choice in ("auto", "never"):
        by_words |= {"compute": {"cache_frozen": choice}, "output_dir": str(tmp_path / choice)}
        run = set_up(FinetuneConfig.from_options(by_words))
        assert (run.plan.features is not None) == (choice == "auto")
        results.append(dpjax.finetune(**by_words))
    np.testing.assert_allclose(results[0].eval_loss, results[1].eval_loss, atol=1e-5)
    models = [nnx.state(load_masked_lm(each.output_dir / "model")) for each in results]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *models)


@pytest.mark.slow
@pytest.mark.parametrize("owner_sampling", ["owners", "records"])
def test_owners(by_words, train_file, tmp_path, owner_sampling):
    path = owned_file(train_file, tmp_path / "owned.csv", author_of_each())
    by_words["train_data"] = {"path": str(path), "owner_column": "author"}
    by_words["privacy"] |= {"delta": 1e-4, "records_per_owner": 3, "owner_sampling": owner_sampling}
    by_words["training"] |= {"expected_batch_size": 16, "microbatch_size": 12}
    result = dpjax.finetune(**by_words)
    assert result.privacy["mechanism"]["unit"] == "user" and not result.warnings
    assert verify_report(result.privacy) == []


@pytest.mark.slow
@pytest.mark.parametrize("is_causal", [True, False])
def test_a_plan(by_words, decoder, is_causal):
    head = {"template": "{text} very", "label_words": WORDS}
    by_words |= {"model": str(decoder), "head": head} if is_causal else {}
    forecast = dpjax.plan(**by_words, batch_sizes=(40,))
    run = set_up(FinetuneConfig.from_options(by_words))
    counts = [count_parameters(part) for part in (run.model.trainable, run.model.frozen)]
    assert [forecast.model.num_trained, forecast.model.num_frozen] == counts
    assert forecast.asked.epsilon == run.plan.mechanism.epsilon(1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("compute", [{"dtype": "bfloat16"}, {"scan_layers": True}])
def test_other_ways_to_compute(by_words, compute):
    assert dpjax.finetune(**by_words | {"compute": compute}).eval_loss is not None


def test_shapes_are_those_of_the_model(by_words):
    run = set_up(FinetuneConfig.from_options(by_words))
    shapes = abstract_split(run.plan)
    assert jax.tree.structure(shapes.trainable) == jax.tree.structure(run.model.trainable)
    assert shapes.graphdef == run.model.graphdef


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "no text"}, "must have {text} once"),
        ({"template": "{text} was"}, "must have {mask} where"),
        ({"label_words": ("good=great",)}, "lacks the label 'bad'"),
        ({"label_words": (*WORDS, "badd=film")}, "'badd', which no training record has.*'bad'"),
        ({"label_words": ("good=very great", "bad=terrible")}, "one token.*'very', 'great'"),
        ({"label_words": ("good=superb", "bad=terrible")}, r"one token.*\[UNK\]"),
        ({"label_words": ("good=great", "bad=great")}, "other tokens, got 'great'"),
        ({"label_words": ("good=great, great", "bad=film")}, "'good' must .* 'great' twice"),
        ({"label_words": ()}, r"is for a decoder.*Give head\.label_words"),
        ({"template": "{text} {mask}" + " very" * 13}, "no text would be left"),
    ],
)
def test_a_head_that_cannot_be_is_refused(by_words, changes, message):
    by_words["head"] |= changes
    with pytest.raises(ValueError, match=message):
        dpjax.finetune(**by_words)


def test_options_of_a_new_head_are_refused(by_words):
    with pytest.raises(ValueError, match="num_layers is for a new head"):
        dpjax.finetune(**by_words | {"num_layers": 1})
    with pytest.raises(ValueError, match=r"head\.template has no meaning with task=causal_lm"):
        dpjax.finetune(**by_words | {"task": "causal_lm"})


def test_what_a_decoder_cannot_do_is_refused(by_words, decoder):
    by_words["model"] = str(decoder)
    with pytest.raises(ValueError, match=r"must end with \{mask\}"):
        dpjax.finetune(**by_words)
    by_words["head"]["template"] = "{text} very {mask}"
    with pytest.raises(ValueError, match=r"tuning=head with head\.template"):
        dpjax.finetune(**by_words | {"tuning": "head"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("template", "{text} film {mask} film"),
        ("label_words", ["good=great", "bad=terrible"]),
        ("label_words", list(reversed(WORDS))),
    ],
)
def test_a_run_is_not_resumed_with_another_head(by_words, name, value):
    run = set_up(FinetuneConfig.from_options(by_words))
    by_words["head"] |= {name: value}
    other = set_up(FinetuneConfig.from_options(by_words))
    words = re.escape(f"was started with head.{name}={run.identity['config'][f'head.{name}']}")
    with pytest.raises(ValueError, match=words + ", now it is " + re.escape(str(value))):
        check_same(run.identity, other.identity)


def test_texts_are_labelled_by_finished_runs_with_a_template_alone(by_words, tmp_path):
    with pytest.raises(TypeError, match="a list of strings, got one string"):
        classify(tmp_path, "film")
    with pytest.raises(TypeError, match="a list of strings, got one of NoneType, str"):
        classify(tmp_path, ["film", None])
    with pytest.raises(FileNotFoundError, match=r"no run .*: it must be the folder"):
        classify(tmp_path / "none", ["film"])
    with pytest.raises(ValueError, match=r"must be a finished run .* but holds nothing"):
        classify(tmp_path, ["film"])
    (tmp_path / "run" / "model").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        classify(tmp_path / "run", ["film"])
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is damaged \("):
        classify(tmp_path / "run", ["film"])
    (tmp_path / "run" / "config.json").write_text(json.dumps(by_words | {"head": {}}))
    with pytest.raises(ValueError, match=r"with head\.template, got one without.*load_classifier"):
        classify(tmp_path / "run", ["film"])


def test_a_checkpoint_without_the_head_is_refused(by_words, encoder, tmp_path):
    shutil.copytree(encoder, tmp_path / "bare")
    file = tmp_path / "bare" / "model.safetensors"
    tensors = {name: value for name, value in load_file(file).items() if "cls." not in name}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="its head for masked tokens is not there"):
        dpjax.finetune(**by_words | {"model": str(tmp_path / "bare")})


@pytest.mark.slow
@pytest.mark.parametrize("is_causal", [True, False])
def test_clipped_gradients_of_all_parameters_equal_a_loop(by_words, decoder, is_causal):
    by_words["tuning"] = "full"
    if is_causal:
        by_words |= {"model": str(decoder), "head": {"template": "{text}", "label_words": WORDS}}
    run = set_up(FinetuneConfig.from_options(by_words))
    loss = run.plan.task.loss_fn(run.model.graphdef)
    batch = run.plan.task.batch(run.plan.train.take(np.arange(4)))
    parameters, frozen = run.model.trainable, run.model.frozen
    gradient_of = jax.jit(jax.grad(loss))
    gradients = [
        gradient_of(parameters, jax.tree.map(lambda leaf, row=row: leaf[row], batch), frozen)
        for row in range(4)
    ]
    norms = [float(optax.tree.norm(gradient)) for gradient in gradients]
    clip_norm = float(np.median(norms))
    scaled = [
        optax.tree.scale(min(1.0, clip_norm / norm), gradient)
        for norm, gradient in zip(norms, gradients, strict=True)
    ]
    expected = jax.tree.map(lambda *leaves: sum(leaves), *scaled)
    for strategy in ("one_backward", "two_backwards"):
        clipped = clipped_grad(
            lambda params, record: loss(params, record, frozen),
            clip_norm=clip_norm,
            strategy=strategy,
        )
        found = jax.jit(lambda params, batch, clipped=clipped: clipped(params, batch))(
            parameters, batch
        )
        np.testing.assert_allclose(found.norms, norms, rtol=2e-5)
        difference = optax.tree.norm(jax.tree.map(jnp.subtract, found.grads, expected))
        assert difference <= 2e-5 * optax.tree.norm(expected)


@pytest.mark.slow
def test_eight_devices_come_to_what_one_comes_to(by_words, tmp_path):
    by_words["model"] = str(by_words["model"])
    one = dpjax.finetune(**by_words)
    script = Path(__file__).with_name("training") / "finetuned_on_devices.py"
    on_eight = by_words | {"output_dir": str(tmp_path / "eight"), "stop_after": None}
    done = subprocess.run(
        [sys.executable, script], input=json.dumps([on_eight]), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    name = "model/model.safetensors"
    expected, found = load_file(one.output_dir / name), load_file(tmp_path / "eight" / name)
    for tensor, value in expected.items():
        np.testing.assert_allclose(found[tensor], value, atol=2e-5, err_msg=tensor)
