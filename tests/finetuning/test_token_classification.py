"""A run that tags words: learns, reports, and writes what transformers opens."""

import json

import numpy as np
import pytest
from dpjax_accounting import verify_report

import dpjax
from dpjax.audit import verify_audit_report
from dpjax.data import TaggedDataset
from dpjax.finetuning.tasks.token_classification import TokenClassification
from tests.support.tiny_words import BAD, GOOD, NEUTRAL

TAGS = dict.fromkeys(GOOD, "praise") | dict.fromkeys(BAD, "blame")


def write_words(path, num, seed):
    rng = np.random.default_rng(seed)
    with path.open("w") as file:
        for _ in range(num):
            words = [str(word) for word in rng.choice([*NEUTRAL, *GOOD, *BAD], rng.integers(2, 9))]
            tags = [TAGS.get(word, "none") for word in words]
            file.write(json.dumps({"tokens": words, "tags": tags}) + "\n")
    return path


@pytest.fixture
def tagging(options, tmp_path):
    """Options of a run of a few seconds."""
    changes = {
        "task": "token_classification",
        "train_data": write_words(tmp_path / "train.jsonl", 240, 0),
        "eval_data": write_words(tmp_path / "eval.jsonl", 60, 1),
        "tuning": "full",
        "privacy": {"noise_multiplier": 0.5, "clip_norm": 1.0},
        "training": options["training"] | {"num_steps": 30},
    }
    return options | changes


@pytest.mark.slow
def test_a_run_tags_words(tagging, capsys):
    result = dpjax.finetune(**tagging)
    assert result.warnings == ()
    assert result.eval_accuracy > 0.8
    assert result.eval_perplexity is result.eval_span_f1 is None and result.quality_details == ()
    name, value = result.quality
    assert name == "Accuracy on held-out words"
    assert value.startswith(f"{result.eval_accuracy:.4f} of ")
    assert verify_report(result.privacy) == []
    assert "3 tags" in capsys.readouterr().out
    report = (result.output_dir / "report.md").read_text()
    assert f"| {name} | {value} |" in report


@pytest.fixture
def spans(tagging, tmp_path):
    """The same words in files with a word on each line."""

    def write(name, num, seed):
        rng = np.random.default_rng(seed)
        lines = []
        for _ in range(num):
            for word in map(str, rng.choice([*NEUTRAL, *GOOD, *BAD], rng.integers(2, 9))):
                tag = f"B-{TAGS[word].upper()}" if word in TAGS else "O"
                lines.append(f"{word} x {tag}")
            lines.append("")
        path = tmp_path / name
        path.write_text("\n".join(["-DOCSTART- x O", "", *lines]))
        return path

    data = {"train_data": write("train.conll", 240, 0), "eval_data": write("eval.txt", 60, 1)}
    return tagging | data


@pytest.mark.slow
def test_a_run_finds_spans_and_is_audited(spans):
    audit = {"num_canaries": 40, "most_share": 0.5, "kind": "mislabelled"}
    training = spans["training"] | {"evaluate_every": 20}
    privacy = {"noise_multiplier": 0.5, "clip_norm": 1.0, "delta": 1e-5}
    result = dpjax.finetune(**spans | {"training": training, "privacy": privacy}, audit=audit)
    assert result.warnings == ()
    assert 0.5 < result.eval_span_f1 <= 1
    names = [name for name, _ in result.quality_details]
    assert names == ["Spans", "Spans of BLAME", "Spans of PRAISE"]
    assert result.quality_details[0][1].startswith(f"F1 {result.eval_span_f1:.4f}, precision ")
    report = (result.output_dir / "report.md").read_text()
    assert all(f"| {name} | {value} |" in report for name, value in result.quality_details)
    assert any("eval_span_f1" in row for row in result.metrics)
    assert verify_audit_report(result.audit) == []
    assert result.audit["score"] == "loss"
    assert result.audit["details"]["kind"] == "mislabelled"
    assert result.privacy["mechanism"]["num_units"] == 260


def test_spans_are_those_of_the_words_that_count():
    labels = ("B-X", "I-X", "O")
    tags = np.array([[2, 0, 1, 1, 2, 0], [2, 0, 2, 2, 2, 2], [2, 0, 2, 2, 2, 2]])
    # Neither special tokens, nor further tokens of a word, nor padding.
    counts = np.array([[0, 1, 0, 1, 1, 0], [0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0]], bool)
    predicted = np.array([[1, 0, 2, 1, 2, 0], [2, 0, 1, 0, 0, 0], [2, 0, 2, 2, 2, 2]])
    data = TaggedDataset(tags, tags >= 0, np.zeros(3, bool), tags, counts)
    losses = np.array([0.1, 0.2, np.nan], np.float32)
    made = TokenClassification(labels).evaluation(losses, predicted, data)
    # The first is right, the second one word too long, and the third has no prediction.
    assert made.num_correct.tolist() == [3, 1, 0] and made.num_words.tolist() == [3, 2, 2]
    assert made.spans["X"].right == 1
    assert (made.spans["X"].predicted, made.spans["X"].there) == (2, 3)
    assert made.span_f1 == 2 / 5
    plain = TokenClassification(("X", "Y", "Z")).evaluation(losses, predicted, data)
    assert plain.span_f1 is None and plain.details == ()


@pytest.mark.slow
def test_transformers_opens_the_model_with_its_tags(tagging):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    changes = {"training": tagging["training"] | {"num_steps": 2}, "tuning": "lora"}
    result = dpjax.finetune(**tagging | changes)
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        result.output_dir / "model"
    )
    assert set(model.config.label2id) == {"praise", "blame", "none"}
    ids = torch.tensor([[2, 5, 9, 3]])
    assert model(ids).logits.shape == (1, 4, 3)


def test_tags_that_training_never_has_are_refused(tagging, tmp_path):
    held_out = tmp_path / "eval.jsonl"
    held_out.write_text(json.dumps({"tokens": ["the", "film"], "tags": ["none", "prais"]}))
    message = r"label\(s\) occur only in the evaluation data: 'prais'.* Did you mean 'praise'\?"
    with pytest.raises(ValueError, match=message):
        dpjax.finetune(**tagging)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "mean"}, "pooling has no meaning with task=token_classification"),
        ({"separator": "\n"}, "separator has no meaning with task=token_classification"),
        ({"training": {"label_smoothing": 0.1}}, "training.label_smoothing has no meaning"),
    ],
)
def test_options_of_other_tasks_are_refused(tagging, changes, message):
    with pytest.raises(ValueError, match=message):
        dpjax.finetune(**tagging | changes)
