"""Runs whose head reads features of several layers and starts from words."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import dpjax
from dpjax.cli.main import _parse
from tests.support.tiny_words import BAD, GOOD

WORDS = (f"good={GOOD[0]}, {GOOD[1]}", f"bad={BAD[0]}, {BAD[1]}")


@pytest.fixture
def read(options):
    """Options of a head that reads both layers."""
    return options | {"tuning": "head", "features": {"layers": (1, 2)}}


def weights_of(result):
    return load_file(result.output_dir / "model" / "model.safetensors")


@pytest.mark.slow
def test_a_run_reads_layers_starts_from_words_and_says_both(read, tmp_path):
    read |= {"head": {"label_words": WORDS}}
    result = dpjax.finetune(**read)
    assert 0 <= result.eval_accuracy_before <= 1
    weights = weights_of(result)
    assert weights["classifier.weight"].shape == (2, 2 * 16 + 1)
    assert "classifier.bias" not in weights
    assert np.any(weights["bert.dpjax_features.centre"])
    report = (result.output_dir / "report.md").read_text()
    assert f"| Accuracy before tuning, at no ε | {result.eval_accuracy_before:.4f} |" in report
    assert "| Features | of the layers 1, 2, centred, of norm 1 |" in report
    assert f"| Head starts from | {WORDS[0]}; {WORDS[1]} |" in report
    assert any(f"starts from (bad: {BAD[0]}" in line for line in result.privacy["assumptions"])
    kept = json.loads((result.output_dir / "config.json").read_text())
    assert kept["features"] == {"layers": [1, 2]}
    # What was computed once is what every step would compute.
    never = read | {"output_dir": tmp_path / "never", "compute": {"cache_frozen": "never"}}
    for name, value in weights_of(dpjax.finetune(**never)).items():
        np.testing.assert_allclose(value, weights[name], atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": "lora", "lora": {"rank": 2}},
        {"tuning": "full"},
        {"tuning": "last_layers", "num_trained_layers": 1},
    ],
    ids=lambda changes: changes["tuning"],
)
def test_the_centre_stays_whatever_is_trained(read, tmp_path, changes):
    head = weights_of(dpjax.finetune(**read))["bert.dpjax_features.centre"]
    result = dpjax.finetune(**read | changes | {"output_dir": tmp_path / "other"})
    np.testing.assert_array_equal(weights_of(result)["bert.dpjax_features.centre"], head)
    assert not result.warnings


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit_with_the_same_layers_alone(
    read, stop_after, tmp_path
):
    whole = weights_of(dpjax.finetune(**read | {"output_dir": tmp_path / "whole"}))
    stop_after(2, **read)
    other = {"features": {"layers": (2,)}}
    with pytest.raises(ValueError, match=r"with features\.layers=\[1, 2\], now it is \[2\]"):
        dpjax.finetune(**read | other, resume=True)
    for name, value in weights_of(dpjax.finetune(**read, resume=True)).items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"layers": (1, 7)}}, r"features\.layers has 7, .* at most 2, the number of"),
        ({"features": {"layers": (-1,)}}, r"features\.layers must be at least 0"),
        ({"features": {"layers": (2, 1)}}, r"features\.layers must be given from the lowest"),
        ({"features": {"layers": (1, 1)}}, r"given from the lowest, each once, got \[1, 1\]"),
        ({"pooling": "first"}, r"features\.layers=\[1, 2\] says what is read of tokens: leave out"),
        ({"num_layers": 2}, r"features\.layers=\[1, 2\] keeps the layers up to 2: leave out"),
        ({"task": "token_classification"}, r"features\.layers has no meaning with task=token_clas"),
        ({"head": {"label_words": ("god=a", "bad=b")}}, r"label 'god'.* Did you mean 'good'\?"),
        ({"head": {"label_words": ("bad=b",)}}, r"head\.label_words lacks the label 'good'"),
        ({"head": {"label_words": ("bad",)}}, r"head\.label_words has 'bad': give each label as"),
        ({"head": {"label_words": ("bad=a", "bad=b")}}, r"has the label 'bad' twice"),
        ({"head": {"label_words": ("good= ,", "bad=b")}}, r"has 'good= ,': give each label as"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(read, changes, message):
    with pytest.raises(ValueError, match=message):
        dpjax.finetune(**read | changes)
    assert not read["output_dir"].exists()


def test_layers_are_given_on_the_command_line():
    arguments = ["finetune", "--model", "m", "--output-dir", "o", "--non-private"]
    arguments += ["--train-data.path", "t.csv", "--eval-data.path", "e.csv"]
    arguments += ["--features.layers", "4", "5", "--head.label-words", *WORDS]
    config = _parse(arguments).config
    assert config.features.layers == (4, 5)
    assert config.head.words() == {"good": GOOD[:2], "bad": BAD[:2]}
