"""Records whose loss is not finite end no run, and a run that diverges ends in a sentence."""

import json
import shutil

import numpy as np
import pytest
from dpjax_accounting import verify_report
from flax import nnx
from safetensors.numpy import load_file, save_file

import dpjax
from dpjax.cli.main import main
from dpjax.finetuning.tasks.causal_lm import LanguageEvaluation
from dpjax.finetuning.tasks.classification import LabelledEvaluation
from dpjax.models import CausalLM, parse_config, save_model
from dpjax.training import DivergenceWatch, RunDiverged

ODD_WORD = "xyzzy"


def with_nan_row(source, folder, tensor, row):
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    weights[tensor] = weights[tensor].copy()
    weights[tensor][row] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def odd_options(options, tiny_checkpoint, tmp_path):
    """Options of a classifier in which unknown words have no embedding."""
    name = "bert.embeddings.word_embeddings.weight"
    model = with_nan_row(tiny_checkpoint, tmp_path / "odd", name, row=1)
    training = options["training"] | {"num_steps": 2}
    return {**options, "model": model, "training": training}


def with_odd_record(path, folder):
    copy = folder / f"odd-{path.name}"
    if path.suffix == ".csv":
        copy.write_text(path.read_text() + f"the {ODD_WORD} film,good\n")
    else:
        copy.write_text(path.read_text() + json.dumps({"text": f"the {ODD_WORD} Q"}) + "\n")
    return copy


@pytest.fixture
def odd_language_options(language_options, decoder, tmp_path):
    """Options of a decoder with a head of its own, in which the letter Q has no embedding."""
    raw = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": len(json.loads((decoder / "tokenizer.json").read_text())["model"]["vocab"]),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 48,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "eos_token_id": 0,
        "bos_token_id": 0,
    }
    source = tmp_path / "source"
    shutil.copytree(decoder, source)
    (source / "config.json").write_text(json.dumps(raw))
    save_model(CausalLM(parse_config(raw), rngs=nnx.Rngs(0)), tmp_path / "llama", source=source)
    vocabulary = json.loads((decoder / "tokenizer.json").read_text())["model"]["vocab"]
    model = with_nan_row(
        tmp_path / "llama", tmp_path / "odd", "model.embed_tokens.weight", vocabulary["Q"]
    )
    options = language_options("text", model=model, tuning="lora")
    options["training"] |= {"num_steps": 2, "expected_batch_size": 200}
    return options


def check_run(result, *, steps_with_odd, held_out_odd, training_records):
    folder = result.output_dir
    assert (folder / "model" / "model.safetensors").exists()
    assert not (folder / "private").exists()
    assert verify_report(json.loads((folder / "privacy.json").read_text())) == []
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["num_nonfinite"] for row in rows] == steps_with_odd
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert np.isfinite(result.eval_loss)
    report = (folder / "report.md").read_text()
    assert all(warning.split(":")[0] in report for warning in result.warnings)
    assert len(result.warnings) == any(steps_with_odd) + held_out_odd
    (note,) = [note for note in result.attack.notes if "not finite" in note]
    assert f"{any(steps_with_odd):d} of the {training_records} training" in note
    assert f"{held_out_odd} of the" in note
    assert json.loads((folder / "attack.json").read_text())["notes"] == list(result.attack.notes)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("non_private", [False, True])
@pytest.mark.slow
def test_one_training_record_without_a_loss(odd_options, tmp_path, non_private):
    odd_options["train_data"] = with_odd_record(odd_options["train_data"], tmp_path)
    # Everybody takes part in every step.
    training = odd_options["training"] | {"expected_batch_size": 241}
    options = odd_options | {"training": training}
    if non_private:
        options |= {"non_private": True, "privacy": {}}
    result = dpjax.finetune(**options)
    weights = load_file(result.output_dir / "model" / "model.safetensors")
    bad = {name for name, value in weights.items() if not np.isfinite(value).all()}
    assert bad == {"bert.embeddings.word_embeddings.weight"}
    if not non_private:
        check_run(result, steps_with_odd=[1, 1], held_out_odd=0, training_records=241)


@pytest.mark.slow
def test_one_held_out_record_without_a_loss(odd_options, tmp_path):
    odd_options["eval_data"] = with_odd_record(odd_options["eval_data"], tmp_path)
    result = dpjax.finetune(**odd_options)
    check_run(result, steps_with_odd=[0, 0], held_out_odd=1, training_records=240)
    assert result.eval_accuracy == pytest.approx(round(result.eval_accuracy * 81) / 81)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["train_data", "eval_data"])
def test_one_text_without_a_loss(odd_language_options, tmp_path, data):
    options = odd_language_options
    options[data] = with_odd_record(options[data], tmp_path)
    if data == "train_data":
        options["training"]["expected_batch_size"] = 201
    result = dpjax.finetune(**options)
    in_training = int(data == "train_data")
    check_run(
        result,
        steps_with_odd=[in_training] * 2,
        held_out_odd=1 - in_training,
        training_records=200 + in_training,
    )
    assert np.isfinite(result.eval_perplexity)


def test_a_checkpoint_with_a_broken_parameter_that_would_be_trained(odd_options):
    """No record looks that row up: the first step, paid for, would be the last."""
    with pytest.raises(ValueError, match=r"embed.*not numbers.*repair the checkpoint"):
        dpjax.finetune(**odd_options | {"tuning": "full"})
    assert not odd_options["output_dir"].exists()


def test_means_are_over_finite_losses():
    found = LabelledEvaluation(
        np.array([1, np.nan, 3, np.inf], np.float32), correct=np.ones(4, bool)
    )
    assert (found.loss, found.num_nonfinite, found.accuracy) == (2.0, 2, 1.0)
    texts = LanguageEvaluation(np.array([1, np.nan, 2], np.float32), num_tokens=np.array([3, 9, 1]))
    assert texts.loss == 1.25 and texts.perplexity == pytest.approx(np.exp(1.25))
    none = LanguageEvaluation(np.full(2, np.nan, np.float32), num_tokens=np.array([1, 2]))
    assert none.loss is None and none.perplexity is None
    huge = LabelledEvaluation(np.full(2, 3e38, np.float32), correct=np.zeros(2, bool))
    assert huge.loss == pytest.approx(3e38, rel=1e-6)


def test_a_few_records_without_a_loss_are_no_divergence():
    watch = DivergenceWatch(batch_size=2, advice="start another")
    for step in range(1, 15):
        watch.check_losses(step, 1, 0)
    watch.check_losses(15, 5, 1)
    watch.check_losses(16, 15, 0)
    watch.check_losses(17, 0, 0)
    with pytest.raises(RunDiverged, match="after step 18 none of the last 16 records"):
        watch.check_losses(18, 1, 0)


@pytest.mark.slow
def test_a_diverged_run_stops_with_a_sentence_and_may_be_resumed(options, capsys):
    training = options["training"] | {"learning_rate": 3e38, "schedule": "constant"}
    options |= {"training": training, "tuning": "full"}
    with pytest.raises(RunDiverged, match=r"after step \d .*learning_rate") as first:
        dpjax.finetune(**options)
    folder = options["output_dir"]
    privacy = json.loads((folder / "privacy.json").read_text())
    assert privacy["steps_completed"] == first.value.step > 0
    assert verify_report(privacy) == []
    with pytest.raises(RunDiverged) as second:
        dpjax.finetune(**options, resume=True)
    assert str(second.value) == str(first.value)
    words = {
        "--model": options["model"],
        "--train-data.path": options["train_data"],
        "--eval-data.path": options["eval_data"],
        "--output-dir": folder.parent / "shell",
        "--privacy.target-epsilon": 4,
        "--training.learning-rate": 3e38,
        "--training.schedule": "constant",
        "--training.num-steps": 6,
        "--training.expected-batch-size": 40,
        "--training.max-length": 16,
        "--tuning": "full",
    }
    assert main(["finetune", *(str(word) for pair in words.items() for word in pair)]) == 1
    said = capsys.readouterr().err
    assert "diverged" in said and "Traceback" not in said
