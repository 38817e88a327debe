"""Runs whose new classifier reads what a decoder knows at the end of a template."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

import dpjax
from dpjax.finetuning import classify, set_up
from dpjax.finetuning.setup.steps import abstract_split
from dpjax.models import Trainable, load_causal_lm, load_classifier, load_tokenizer, split_trainable
from dpjax.privatize import clipped_grad
from tests.support.word_checkpoints import DECODER, ENCODER, write_checkpoint

TEMPLATE = "film {text}\nvery"
# Where it is told: on one line.
IN_REPORT = TEMPLATE.replace("\n", "\\n")
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("decoder"), DECODER, is_causal=True)


@pytest.fixture
def templated(options, decoder):
    options["model"] = str(decoder)
    options |= {name: str(options[name]) for name in ("train_data", "eval_data", "output_dir")}
    options |= {"tuning": "head", "head": {"template": TEMPLATE}, "features": {"layers": (1, 2)}}
    options["privacy"] = {"noise_multiplier": 1.0, "delta": 1e-5, "clip_norm": 0.5}
    options["training"] |= {"num_steps": 3}
    return options


def naive_logits(folder, text, template=TEMPLATE):
    """Of one text, from the tokens that the tokenizer makes of the whole and the saved arrays."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = np.array(tokenizer(template.replace("{text}", text))["input_ids"])
    model = load_classifier(folder, label_names=("bad", "good"), key=KEY)
    hidden = model.layer_states(ids, np.ones(len(ids), bool))
    centre = np.float64(model.features.centre[...])
    parts = []
    for states, own in zip(hidden, centre, strict=True):
        last = np.float64(states[-1])
        part = last / np.linalg.norm(last) - own
        parts.append(part / np.linalg.norm(part))
    features = np.append(np.concatenate(parts) / len(parts) ** 0.5, 0.2)
    return features @ np.float64(model.classifier.kernel[...])


def test_a_run_reads_the_end_of_the_template(templated, tmp_path, caplog):
    result = dpjax.finetune(**templated)
    folder = result.output_dir / "model"
    caplog.clear()
    load_tokenizer(folder)
    assert caplog.messages == []
    lines = [line.split(",") for line in Path(templated["eval_data"]).read_text().split("\n")[1:-1]]
    expected = [
        ("bad", "good")[int(np.argmax(naive_logits(folder, text.strip())))] for text, _ in lines
    ]
    assert classify(result.output_dir, [text for text, _ in lines]) == expected
    right = [a == b for a, (_, b) in zip(expected, lines, strict=True)]
    assert result.eval_accuracy == pytest.approx(np.mean(right))
    assert any(IN_REPORT in line for line in result.privacy["assumptions"])
    report = (result.output_dir / "report.md").read_text()
    assert f"| Texts are put into | {IN_REPORT} |" in report
    weights = load_file(folder / "model.safetensors")
    centre = next(value for name, value in weights.items() if name.endswith("features.centre"))
    assert np.any(centre)
    never = templated | {
        "output_dir": str(tmp_path / "never"),
        "compute": {"cache_frozen": "never"},
    }
    for name, value in load_file(
        dpjax.finetune(**never).output_dir / "model" / "model.safetensors"
    ).items():
        np.testing.assert_allclose(value, weights[name], atol=1e-5, err_msg=name)


def test_the_template_is_a_part_of_the_centre(templated, decoder):
    """The centre is that of random words where the run puts texts."""
    centres = []
    for template in (TEMPLATE, "{text}"):
        templated["head"] = {"template": template}
        task = set_up(dpjax.finetuning.FinetuneConfig.from_options(templated)).plan.task
        config = dpjax.finetuning.FinetuneConfig.from_options(templated)
        model = task.load(decoder, config, KEY, config.compute.loading())
        centres.append(np.asarray(model.features.centre[...]))
    assert np.max(np.abs(centres[0] - centres[1])) > 1e-2


WORDS = ("good=great, lovely", "bad=terrible")


@pytest.fixture
def with_words(templated):
    templated["head"] = {"template": TEMPLATE, "label_words": WORDS}
    return templated


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_head_starts_as_what_the_language_head_says(with_words, decoder, tmp_path, is_tied):
    """But for norms, which are those of random words."""
    if not is_tied:
        decoder = write_checkpoint(
            tmp_path, DECODER | {"tie_word_embeddings": False}, is_causal=True
        )
        with_words["model"] = str(decoder)
    config = dpjax.finetuning.FinetuneConfig.from_options(with_words)
    plan = set_up(config).plan
    model = plan.task.load(decoder, config, KEY, config.compute.loading())
    batch = plan.task.batch(plan.evaluation.take(np.arange(6)))
    found = np.asarray(model(batch.input_ids, batch.attention_mask))

    language = load_causal_lm(decoder)
    hidden = np.asarray(language.hidden_states(batch.input_ids, batch.attention_mask), np.float64)
    last = hidden[np.arange(6), np.sum(batch.attention_mask, axis=1) - 1]
    tokens = plan.task.rows
    assert [len(row) for row in tokens] == [1, 2]  # bad, good
    table = np.asarray(language.head_weights()[0], np.float64)
    table = table if is_tied else table.T
    said = np.stack([table[list(row)].mean(axis=0) for row in tokens])
    said -= said.mean(axis=0)
    units = last / np.linalg.norm(last, axis=1, keepdims=True)
    centre = np.asarray(model.features.centre[...], np.float64)[-1]
    of_text = (units - centre) / np.linalg.norm(units - centre, axis=1, keepdims=True) @ said.T
    of_template = np.broadcast_to(centre @ said.T, found.shape)
    # Two numbers for all texts and labels: what a text says, and what the template says.
    columns = np.stack([of_text.ravel(), of_template.ravel()], axis=1)
    sizes, rest, *_ = np.linalg.lstsq(columns, found.ravel(), rcond=None)
    assert np.all(rest < 1e-8)
    assert sizes[0] == pytest.approx(sizes[1] * np.sqrt(1 - centre @ centre), rel=1e-4)
    assert 0.5 < sizes[1] / np.mean(np.linalg.norm(last, axis=1)) < 2


def test_a_run_that_starts_from_words(with_words):
    result = dpjax.finetune(**with_words)
    assert result.eval_accuracy_before is not None
    assert any("lovely" in line for line in result.privacy["assumptions"])
    report = (result.output_dir / "report.md").read_text()
    assert f"| Texts are put into | {IN_REPORT} |" in report
    assert "| Head starts from | good=great, lovely; bad=terrible |" in report
    assert len(classify(result.output_dir, ["good film", "film"])) == 2
    with pytest.raises(ValueError, match="has one on features of the layers"):
        dpjax.finetune(
            **with_words
            | {
                "model": str(result.output_dir / "model"),
                "output_dir": str(result.output_dir) + "2",
            }
        )


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", "full", "last_layers"])
def test_other_tunings_and_no_features(templated, tuning):
    templated |= {"tuning": tuning, "features": {"layers": ()}}
    if tuning == "last_layers":
        templated["num_trained_layers"] = 1
    result = dpjax.finetune(**templated)
    labels = classify(result.output_dir, ["good film", "film"])
    assert len(labels) == 2 and set(labels) <= {"good", "bad"}


@pytest.mark.slow
def test_canaries_and_two_stages(templated):
    templated |= {"tuning": "lora", "audit": {"num_canaries": 60, "most_share": 0.9}}
    templated["training"] |= {"num_steps": 4, "head_steps": 2}
    result = dpjax.finetune(**templated)
    assert result.audit is not None
    assert result.epsilon > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"template": "{mask} {text}"}}, "must end with {mask}"),
        ({"head": {"template": "no"}}, "must have {text} once"),
        ({"features": {"layers": (0, 2)}}, "has 0, the embeddings"),
        ({"features": {"layers": (1, 3)}}, "has 3, which must be at least 0"),
        (
            {"features": {"layers": (1,)}, "head": {"template": TEMPLATE, "label_words": WORDS}},
            "are read in the last layer: add 2 to features.layers",
        ),
        (
            {"head": {"template": TEMPLATE, "label_words": ("good=great film", "bad=terrible")}},
            "'great film' must be one token",
        ),
    ],
)
def test_bad_input(templated, changes, message):
    templated |= changes
    with pytest.raises(ValueError, match=message):
        dpjax.finetune(**templated)


def test_an_encoder_needs_words(templated, tmp_path):
    templated["model"] = str(write_checkpoint(tmp_path, ENCODER, is_causal=False))
    with pytest.raises(ValueError, match=r"without head\.label_words is for a decoder"):
        dpjax.finetune(**templated)


@pytest.mark.parametrize("is_loop", [False, True])
def test_clipping_with_features_of_trained_layers_equals_a_loop(templated, is_loop):
    """What reads layers in the middle of a stack is clipped exactly."""
    templated |= {"tuning": "full", "compute": {"scan_layers": is_loop}}
    config = dpjax.finetuning.FinetuneConfig.from_options(templated)
    plan = set_up(config).plan
    model = plan.task.load(plan.checkpoint, plan.config, KEY, config.compute.loading())
    split = split_trainable(model, Trainable.full())
    loss = plan.task.loss_fn(split.graphdef)
    batch = plan.task.batch(plan.train.take(np.arange(4)))
    assert jax.tree.structure(abstract_split(plan).trainable) == jax.tree.structure(split.trainable)

    gradient_of = jax.jit(jax.grad(loss))
    gradients = [
        gradient_of(
            split.trainable, jax.tree.map(lambda leaf, row=row: leaf[row], batch), split.frozen
        )
        for row in range(4)
    ]
    norms = [float(optax.tree.norm(gradient)) for gradient in gradients]
    clip_norm = float(np.median(norms))
    scaled = [
        optax.tree.scale(min(1.0, clip_norm / norm), gradient)
        for norm, gradient in zip(norms, gradients, strict=True)
    ]
    expected = jax.tree.map(lambda *leaves: sum(leaves), *scaled)
    clipped = clipped_grad(
        lambda params, record: loss(params, record, split.frozen), clip_norm=clip_norm
    )
    found = jax.jit(lambda params, batch: clipped(params, batch))(split.trainable, batch)
    np.testing.assert_allclose(found.norms, norms, rtol=2e-5)
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, found.grads, expected))
    assert difference <= 2e-5 * optax.tree.norm(expected)
