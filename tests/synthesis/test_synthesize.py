"""Synthetic records of finished runs: what is written, promised and refused."""

import json
import shutil
import stat

import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from dpjax.cli.main import main
from dpjax.data import DataSource, read_records
from dpjax.models import load_causal_lm
from dpjax.synthesis.drawing import writer as module
from dpjax.synthesis.drawing.draws import Place
from tests.finetuning.conftest import COLOURS
from tests.support.tiny_checkpoints import run as compute_logits


def read_json(path):
    return json.loads(path.read_text())


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_have_the_promise_of_the_run_and_no_data_file_is_there(completions_run, options):
    config = read_json(completions_run / "config.json")
    assert config["train_data"]["record_format"] == "prompt_completion"
    assert not any(
        (completions_run / config[name]["path"]).exists() for name in ("train_data", "eval_data")
    )
    result = dpjax.synthesize(completions_run, **options)
    privacy = read_json(completions_run / "privacy.json")
    summary = read_json(options["output_dir"] / "synthesis.json")
    assert result.epsilon == privacy["guarantee"]["epsilon"] and result.delta == 1e-4
    for name in ("guarantee", "mechanism", "private"):
        assert summary[name] == privacy[name]
    assert "post-processing" in summary["statement"]
    report = (options["output_dir"] / "report.md").read_text()
    assert f"({result.epsilon:.4g}, 0.0001)-differential privacy per record" in report
    assert "add or remove one" in report and "Private synthetic records" in report
    # The run had a fixed seed.
    assert summary["warnings"] == privacy["warnings"] != []
    rows = read_lines(result.records)
    assert [row["thing"] for row in rows] == ["apple", "sky"] * 3 + ["apple"]
    assert all(row["text"] == row["text"].strip() != "" for row in rows)
    assert result.num_records == len(rows) == 7
    assert sorted(path.name for path in options["output_dir"].iterdir()) == [
        "records.jsonl",
        "report.md",
        "synthesis.json",
    ]


def nucleus(logits, temperature, top_p):
    """Probabilities after top-p, in NumPy, one token after the other."""
    scaled = logits.astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    kept, total = np.zeros_like(probabilities), 0.0
    for token in np.argsort(-probabilities, kind="stable"):
        if total >= top_p:
            break
        kept[token] = probabilities[token]
        total += probabilities[token]
    return kept / kept.sum()


def test_draws_follow_temperature_and_top_p(completions_run, tmp_path):
    from dpjax.synthesis.conditions import Condition
    from dpjax.synthesis.config import SynthesisConfig
    from dpjax.synthesis.finished_run import read_run

    temperature, top_p, num = 2.0, 0.3, 1000
    config = SynthesisConfig(
        run=str(completions_run),
        num=num,
        output_dir="unused",
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=1,
        batch_size=num,
    )
    run = read_run(completions_run, allow_non_private=False)
    prepared = module.prepare_prompts(config, run, [Condition("the sky is", None, num)])
    writer = module.Writer(run, prepared, config, seed=1)
    drawn = writer.write([Place(0, number) for number in range(num)])
    assert list(drawn) == [Place(0, number) for number in range(num)]
    ids = jnp.asarray(prepared.encoded.input_ids[0])
    logits = compute_logits(load_causal_lm(run.model), ids, jnp.ones(len(ids), bool))[-1]
    expected = nucleus(np.asarray(logits), temperature, top_p)
    decode = prepared.tokenizer.decode
    by_text = {}
    for token in np.flatnonzero(expected):
        text = decode([token], skip_special_tokens=True).replace("\0", "\ufffd")
        by_text[text] = by_text.get(text, 0.0) + expected[token]
    counts = dict.fromkeys(by_text, 0)
    for draw in drawn.values():
        counts[draw.text] += 1
    assert 3 < len(by_text) < len(expected) / 2
    for text, probability in by_text.items():
        deviation = (num * probability * (1 - probability)) ** 0.5
        assert abs(counts[text] - num * probability) < 4.5 * deviation


def test_whole_texts_begin_by_themselves(texts_run, tmp_path):
    result = dpjax.synthesize(
        texts_run, num=5, output_dir=tmp_path / "new", seed=1, max_new_tokens=8, file_format="csv"
    )
    with pytest.raises(ValueError, match="no column 'label'"):
        read_records(DataSource(str(result.records)))
    from dpjax.data import read_language_records

    records = read_language_records(DataSource(str(result.records)))
    assert len(records.texts) == 5
    prompted = dpjax.synthesize(
        texts_run, num=3, output_dir=tmp_path / "prompted", seed=1, prompt="the", max_new_tokens=4
    )
    assert all(row["text"].startswith("the") for row in read_lines(prompted.records))


def test_prompts_of_a_file_stand_in_the_records(completions_run, tmp_path):
    prompts = tmp_path / "public.csv"
    prompts.write_text("prompt\nthe moon is\nthe sea is\nthe moss is\n")
    result = dpjax.synthesize(
        completions_run, num=5, prompts=prompts, output_dir=tmp_path / "new", seed=1, top_p=0.95
    )
    rows = read_lines(result.records)
    assert [row.keys() for row in rows] == [{"prompt", "completion"}] * 5
    assert sorted(row["prompt"] for row in rows) == sorted(
        ["the moon is", "the sea is"] * 2 + ["the moss is"]
    )
    asked = [each["asked_for"] for each in result.summary["conditions"]]
    assert asked == [2, 2, 1]
    prompts.write_text("prompt\nthe moon is\nthe sea is\nthe fern is\n")
    with pytest.raises(ValueError, match="the prompts are not those"):
        dpjax.synthesize(
            completions_run,
            num=5,
            prompts=prompts,
            output_dir=tmp_path / "new",
            top_p=0.95,
            resume=True,
        )


def test_repeated_texts_are_drawn_again_up_to_the_limit(completions_run, tmp_path, capsys):
    result = dpjax.synthesize(
        completions_run,
        num=4,
        prompt="the sky is",
        output_dir=tmp_path / "new",
        temperature=1e-3,
        max_new_tokens=3,
        max_tries=3,
    )
    counts = result.summary["records"]
    assert result.num_records == 1 and counts["drawn"] == 12
    assert counts["dropped_repeated"] == 11
    assert "3 records are missing" in (result.output_dir / "report.md").read_text()


def check_refused_and_labelled(run, options):
    with pytest.raises(ValueError, match=r"WITHOUT privacy.*allow_non_private"):
        dpjax.synthesize(run, **options)
    assert not options["output_dir"].exists()
    result = dpjax.synthesize(run, **options, allow_non_private=True)
    assert result.epsilon is None and result.summary["private"] is False
    assert result.records.name == "records_WITHOUT_PRIVACY.jsonl"
    assert stat.S_IMODE(result.records.stat().st_mode) == 0o600
    report = (result.output_dir / "report.md").read_text()
    assert report.startswith("# Synthetic records WITHOUT privacy")
    assert "post-processing" not in report and "ε" not in result.summary["statement"]


def test_a_run_without_privacy_is_refused_and_labelled(changed_run, options):
    nothing = dict.fromkeys(("guarantee", "mechanism", "accountant", "implementation"))
    run = changed_run("privacy.json", private=False, warnings=["WITHOUT privacy"], **nothing)
    check_refused_and_labelled(run, options)


@pytest.mark.slow
def test_a_run_that_was_trained_without_privacy_is_refused_and_labelled(make_run, tmp_path):
    run = make_run("text", privacy={}, non_private=True)
    options = {"num": 2, "output_dir": tmp_path / "new", "max_new_tokens": 4}
    check_refused_and_labelled(run, options)


@pytest.mark.slow
def test_what_was_learnt_is_written(make_run, tmp_path):
    training = {"expected_batch_size": 32, "num_steps": 40, "learning_rate": 1e-2, "max_length": 24}
    run = make_run(
        "prompt_completion",
        tuning="full",
        lora={},
        privacy={},
        non_private=True,
        training=training,
    )
    result = dpjax.synthesize(
        run,
        num=4,
        by="thing",
        values=tuple(COLOURS),
        prompt="the {thing} is",
        top_p=0.2,
        seed=1,
        allow_non_private=True,
        output_dir=tmp_path / "new",
    )
    rows = read_lines(result.records)
    assert {row["thing"] for row in rows} == set(COLOURS)
    assert sum(row["text"] == COLOURS[row["thing"]] for row in rows) >= 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num": 1}, "num=1 leaves no record for value 'sky'"),
        ({"by": "text", "prompt": None}, "by must be another column"),
        ({"max_new_tokens": 60}, "more than the 48 positions"),
        ({"prompt": "the {thing} " * 20}, r"as long as training\.max_length=24"),
        ({"compare_with": "nothing.csv"}, "no file .*/nothing.csv to compare with"),
        ({"by": None, "values": (), "prompt": None}, "give by with values, prompt, or prompts"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_model_is_loaded(
    completions_run, options, monkeypatch, changes, message
):
    monkeypatch.setattr(module, "load_causal_lm", None)
    with pytest.raises((ValueError, OSError), match=message):
        dpjax.synthesize(completions_run, **options | changes)
    assert not options["output_dir"].exists()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "config.json",
            {"task": "sequence_classification", "compute": {}},
            "must be a run with task=causal_lm",
        ),
        ("privacy.json", {"status": "unfinished"}, "must be the report of a finished run"),
        ("privacy.json", {"guarantee": {}}, "no privacy report: 'epsilon' is missing"),
    ],
)
def test_other_runs_are_refused(changed_run, options, name, values, message):
    with pytest.raises(ValueError, match=message):
        dpjax.synthesize(changed_run(name, **values), **options)


def test_runs_that_are_not_finished_are_refused(completions_run, options, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run"):
        dpjax.synthesize(tmp_path / "none", **options)
    folder = tmp_path / "run"
    shutil.copytree(completions_run, folder)
    (folder / "private").mkdir()
    (folder / "private" / "run_key.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a run that was interrupted\. Finish it"):
        dpjax.synthesize(folder, **options)
    with pytest.raises(ValueError, match=r"must be a finished run .* but holds no run"):
        dpjax.synthesize(tmp_path, **options)


def test_prompts_of_private_records_are_refused(completions_run, tmp_path):
    own = read_json(completions_run / "config.json")["train_data"]["path"]
    with pytest.raises(ValueError, match="prompts must be public, got the train_data of the run"):
        dpjax.synthesize(completions_run, num=60, prompts=own, output_dir=tmp_path / "new")


def test_a_folder_that_is_there_is_refused(completions_run, options):
    options["output_dir"].mkdir()
    (options["output_dir"] / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is there and holds other files"):
        dpjax.synthesize(completions_run, **options)
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        dpjax.synthesize(completions_run, **options, resume=True)


def test_the_command_has_the_same_options(completions_run, options, capsys):
    words = ["synthesize", str(completions_run), "--values", *options["values"]]
    for name in ("num", "by", "max_new_tokens", "seed", "batch_size", "output_dir"):
        words += [f"--{name.replace('_', '-')}", str(options[name])]
    assert main([*words, "--prompt", "the {thing} is\\n"]) == 0
    assert "7 of 7 asked for" in capsys.readouterr().out
    given = read_json(options["output_dir"] / "synthesis.json")["options"]["prompt"]
    assert given == "the {thing} is\n"
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--prompt", "the {thin} is"])
    assert "Did you mean 'thing'?" in capsys.readouterr().err
