"""Mistakes people make: each is one clear line, before anything is compiled or written."""

import json
import shutil

import jax
import pytest
from dpjax_accounting import DeltaWarning

import dpjax
from dpjax.cli.main import main
from tests.support.runs import check


@pytest.fixture
def arguments(options):
    """The command line of a good run, as a dict that tests spoil."""
    return {
        "--model": options["model"],
        "--train-data.path": options["train_data"],
        "--eval-data.path": options["eval_data"],
        "--output-dir": options["output_dir"],
        "--privacy.target-epsilon": 3.0,
        "--training.expected-batch-size": 40,
        "--training.max-length": 16,
    }


@pytest.fixture
def refuse(arguments, capsys, monkeypatch):
    """Runs `dpjax finetune` with changed arguments; returns what it says when it refuses."""

    def no_compilation(*args, **kwargs):
        raise AssertionError("compiled before refusing")

    def run(**changes):
        for name, value in changes.items():
            arguments[f"--{name.replace('__', '.').replace('_', '-')}"] = value
        words = [
            str(word)
            for name, value in arguments.items()
            if value is not None
            for word in ((name, *value) if isinstance(value, tuple) else (name, value))
        ]
        with monkeypatch.context() as patch:
            patch.setattr(jax.stages.Lowered, "compile", no_compilation)
            try:
                status = main(["finetune", *words])
            except SystemExit as stop:
                status = stop.code
        assert status == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "Traceback" not in said
        return said

    yield run
    if arguments["--output-dir"].name == "run":
        assert not arguments["--output-dir"].exists()


def test_unknown_option(refuse):
    said = refuse(privacy__target_epsilom=3)
    assert "target-epsilom" in said and "--privacy.target-epsilon" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy__target_epsilon": 0}, ["privacy.target_epsilon", "positive", "0"]),
        ({"privacy__target_epsilon": -1}, ["privacy.target_epsilon", "positive", "-1"]),
        ({"privacy__delta": 1}, ["privacy.delta", "between 0 and 1"]),
        ({"privacy__delta": 1.5}, ["privacy.delta", "1.5"]),
        ({"privacy__noise_multiplier": 1.0}, ["both", "target_epsilon", "noise_multiplier"]),
        ({"privacy__target_epsilon": None}, ["privacy.target_epsilon", "non_private"]),
        ({"privacy__clip_norm": 0}, ["privacy.clip_norm", "positive"]),
        ({"training__expected_batch_size": 241}, ["241", "240 training records"]),
        ({"training__microbatch_size": 0}, ["training.microbatch_size", "at least 1"]),
        ({"training__max_length": 33}, ["max_length=33", "32 positions"]),
        ({"training__learning_rate": 0}, ["training.learning_rate"]),
        ({"training__label_smoothing": 1.0}, ["training.label_smoothing", "below 1"]),
        ({"training__head_learning_rate": -1}, ["training.head_learning_rate", "positive"]),
        ({"training__num_steps": 3, "training__num_epochs": 1}, ["num_epochs", "num_steps", "one"]),
        ({"lora__rank": 0}, ["lora.rank", "at least 1"]),
        ({"lora__start_a": "principle"}, ["start-a", "principal", "principle"]),
        ({"num_layers": 0}, ["num_layers", "at least 1", "0"]),
        ({"num_layers": 3}, ["num_layers=3", "2 layers"]),
        ({"lora__layers_to_transform": 2}, ["layers_to_transform", "[2]", "[0, 1]"]),
        ({"lora__target_modules": "qeury"}, ["qeury", "query"]),
        ({"lora__modules_to_save": "LayerNrm"}, ["LayerNrm", "LayerNorm"]),
        ({"tuning": "bais"}, ["tuning", "bais", "bias"]),
        ({"tuning": "last_layers"}, ["num_trained_layers", "last_layers", "None"]),
        ({"tuning": "last_layers", "num_trained_layers": 0}, ["num_trained_layers", "at least 1"]),
        ({"tuning": "last_layers", "num_trained_layers": 3}, ["last 3 layers", "has 2"]),
        ({"num_trained_layers": 1}, ["num_trained_layers=1", "tuning=lora"]),
        ({"lora__dropout": 1}, ["lora.dropout", "below 1"]),
        ({"lora__gauge": "tangents"}, ["lora.gauge", "tangent", "tangents"]),
        (
            {"lora__gauge": "tangent", "training__optimizer": "adamw"},
            ["training.optimizer=adamw", "adam-bc", "sgd"],
        ),
        (
            {"lora__gauge": "tangent", "training__ema_decay": 0.9},
            ["training.ema_decay=0.9", "lora.gauge=tangent"],
        ),
        ({"lora__gauge": "tangent", "lora__rank": 17}, ["lora.rank", "at most 16", "17"]),
        ({"compute__frozen_dtype": "float16"}, ["frozen-dtype", "bfloat16", "float16"]),
        (
            {"compute__frozen_dtype": "bfloat16", "tuning": "bias"},
            ["compute.frozen_dtype", "tuning=bias", "rounded"],
        ),
        ({"compute__attention": "cudnn"}, ["compute.attention=cudnn", "NVIDIA GPU", "cpu"]),
        ({"revision": "main"}, ["revision 'main'", "local folder"]),
        ({"seed": -1}, ["seed"]),
    ],
)
def test_values_that_do_not_fit(refuse, changes, words):
    said = refuse(**changes)
    for word in words:
        assert word in said


def test_missing_file(refuse, tmp_path):
    assert "nowhere.csv" in refuse(train_data__path=tmp_path / "nowhere.csv")


def test_missing_column(refuse):
    said = refuse(train_data__text_column="txet")
    assert "txet" in said and "text" in said and "label" in said


def test_empty_file(refuse, tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    assert "empty" in refuse(train_data__path=empty)


def test_label_only_in_the_evaluation_data(refuse, options, tmp_path):
    path = tmp_path / "eval.csv"
    path.write_text(options["eval_data"].read_text() + "the film,goood\n")
    said = refuse(eval_data__path=path)
    assert "goood" in said and "only in the evaluation data" in said


def test_model_folder_without_config(refuse, tmp_path):
    (tmp_path / "model").mkdir()
    assert "config.json" in refuse(model=tmp_path / "model")


def test_pickle_only_checkpoint(refuse, options, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(options["model"], folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    said = refuse(model=folder)
    assert "pickles" in said and "Convert them" in said


def test_unsupported_family(refuse, options, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(options["model"], folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "t5"}
    (folder / "config.json").write_text(json.dumps(config))
    said = refuse(model=folder)
    assert "t5" in said and "bert" in said


def test_output_directory_that_holds_a_checkpoint(refuse, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert "is not empty and holds no run; name a new folder" in refuse(output_dir=folder)


def test_output_directory_that_is_not_empty(refuse, tmp_path):
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    assert "not empty" in refuse(output_dir=folder)


def test_delta_of_one_over_n_or_more_warns(options):
    options["privacy"] = {"noise_multiplier": 1.0, "delta": 0.01}
    with pytest.warns(DeltaWarning, match=r"0\.01"):
        check(options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1}, "unknown option learning_rate"),
        ({"non_privat": True}, "Did you mean 'non_private'"),
        ({"privacy": {"target_epsilo": 3}}, r"Did you mean 'privacy\.target_epsilon'"),
        ({"privacy": 3.0}, "privacy must be a Privacy or a mapping"),
        ({"training": {"num_steps": 2.5}}, r"training\.num_steps must be"),
        ({"training": {"schedule": "step"}}, "'constant', 'linear', 'cosine'"),
        ({"train_data": {"file": "x"}}, r"Did you mean 'train_data\.\w+'"),
        ({"train_data": {}}, r"missing option train_data\.path"),
    ],
)
def test_python_options_are_checked_like_those_of_the_shell(options, changes, message):
    with pytest.raises(TypeError, match=message):
        dpjax.finetune(**options | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    (
        ({"privacy__noise_multiplier": 0.05}, "multipliers below 0.1 are not accounted for"),
        (
            {
                "privacy__noise_multiplier": 2.0,
                "privacy__target_quantile": 0.5,
                "privacy__count_stddev": 1e9,
            },
            "privacy.count_stddev=1e+09 does not go with batches of 40 units",
        ),
        (
            {"privacy__noise_multiplier": 1e9, "training__gradient": "zeroth-order"},
            "noise multipliers from 1e+09 to 1e+09 do not fit together",
        ),
    ),
)
def test_noise_that_no_accountant_or_sampler_takes_is_refused(refuse, changes, words):
    assert words in refuse(privacy__target_epsilon=None, **changes)


def test_an_epsilon_that_no_noise_meets_is_refused(refuse):
    assert "privacy.target_epsilon=1e-09 cannot be met" in refuse(privacy__target_epsilon=1e-9)
