"""A run that tags words: learns, reports, and writes what transformers opens."""

import json

import numpy as np
import pytest
from dpjax_accounting import verify_report

import dpjax
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
    assert result.eval_perplexity is None
    name, value = result.quality
    assert name == "Accuracy on held-out words"
    assert value.startswith(f"{result.eval_accuracy:.4f} of ")
    assert verify_report(result.privacy) == []
    assert "3 tags" in capsys.readouterr().out
    report = (result.output_dir / "report.md").read_text()
    assert f"| {name} | {value} |" in report


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
