"""compute.vocab_chunk=auto and compute.device_memory_gb: what a run gets, says and keeps."""

import dataclasses
import json

import pytest

import dpjax
from dpjax.cli.main import main
from dpjax.finetuning import FinetuneConfig, set_up
from dpjax.finetuning.setup.automatic.resumed import resumed_auto
from dpjax.finetuning.setup.automatic.strategy import describe_clipping
from dpjax.finetuning.setup.automatic.vocab_chunk import resolve_vocab_chunk
from dpjax.finetuning.setup.plan import prepare

# 32 records of 23 tokens, a vocabulary of some hundreds: 1/32 of this is less than their logits.
LITTLE = 0.001
PLENTY = 24.0


def config_of(options, **compute):
    paths = {name: str(options[name]) for name in ("model", "output_dir")}
    return FinetuneConfig.from_options(options | paths | {"compute": compute})


def test_a_small_model_has_all_logits_at_once(language_options):
    run = set_up(config_of(language_options("text"), device_memory_gb=PLENTY))
    assert run.plan.task.vocab_chunk is None
    assert run.plan.config.compute.vocab_chunk is None
    assert run.identity["config"]["compute.vocab_chunk"] is None
    assert run.identity["device_memory"] == 24_000_000_000
    (said,) = run.plan.choices
    assert "compute.vocab_chunk=auto: logits of all tokens of the vocabulary at once" in said
    assert "1/32 of its memory is 750 MB" in said


def test_little_memory_has_chunks_and_another_strategy(language_options):
    run = set_up(config_of(language_options("text"), device_memory_gb=LITTLE))
    chunk = run.plan.config.compute.vocab_chunk
    assert chunk == run.plan.task.vocab_chunk == 256
    assert f"logits of {chunk} tokens of the vocabulary at once" in run.plan.choices[0]
    said = describe_clipping(run.plan, run.model, 32)
    assert "strategy=auto: " in said
    assert "with 32 examples on a device" in said
    assert "16th of the device's 1 MB" in said


def test_the_records_of_one_device_count(language_options):
    # Between the logits of 16 records and those of 32.
    config = config_of(language_options("text"))
    plan = prepare(config, device_memory=10**12)
    bound = 32 * 24 * 23 * 4 * _vocab_size(plan)
    plan = dataclasses.replace(plan, device_memory=bound)
    assert resolve_vocab_chunk(plan).config.compute.vocab_chunk is not None
    assert resolve_vocab_chunk(plan, num_devices=2).config.compute.vocab_chunk is None


def _vocab_size(plan):
    return json.loads((plan.checkpoint / "config.json").read_text())["vocab_size"]


@pytest.mark.parametrize("chunk", [None, 100])
def test_what_is_given_is_taken(language_options, chunk):
    plan = prepare(config_of(language_options("text"), vocab_chunk=chunk))
    assert resolve_vocab_chunk(plan) is plan
    assert plan.task.vocab_chunk == chunk


def test_there_is_no_loss_before_it_is_known(language_options):
    task = prepare(config_of(language_options("text"))).task
    with pytest.raises(ValueError, match="vocab_chunk=auto must be resolved"):
        task.loss_fn(None)


def test_a_resumed_run_keeps_what_it_was_started_with(language_options):
    config = config_of(language_options("text"))
    for chunk in (None, 512):
        stored = {"config": {"compute.vocab_chunk": chunk}}
        resumed, (notice,) = resumed_auto(config, stored)
        assert resumed.compute.vocab_chunk == chunk
        assert f"compute.vocab_chunk=auto: {chunk}, as the run was started with" == notice
    given = config_of(language_options("text"), vocab_chunk=64)
    assert resumed_auto(given, {"config": {"compute.vocab_chunk": 512}}) == (given, ())


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"vocab_chunk": 0}, "vocab_chunk must be at least 1, got 0"),
        ({"device_memory_gb": 0.0}, "device_memory_gb must be a positive number of GB"),
        ({"device_memory_gb": float("nan")}, "device_memory_gb must be a positive number of GB"),
    ],
)
def test_nonsense_is_refused(language_options, compute, message):
    with pytest.raises(ValueError, match=message):
        config_of(language_options("text"), **compute)


def test_a_misspelt_auto_is_named():
    with pytest.raises(ValueError, match="Did you mean 'auto'"):
        dpjax.finetuning.Compute(vocab_chunk="aut")


def test_a_classifier_has_no_chunks(cheap_options):
    options = cheap_options | {"output_dir": "run"}
    with pytest.raises(ValueError, match="vocab_chunk has no meaning"):
        config_of(options, vocab_chunk=None)


@pytest.mark.slow
def test_the_plan_and_the_headline_say_what_was_chosen(language_options, capsys):
    options = language_options("text")
    forecast = dpjax.plan(**options | {"output_dir": "run"}).to_dict()
    chunk, clipping = forecast["model"]["choices"]
    assert "compute.vocab_chunk=auto" in chunk and "strategy=auto" in clipping
    assert f"{clipping}." in forecast["advice"]
    options["training"]["num_steps"] = 1
    dpjax.finetune(**options)
    said = " ".join(capsys.readouterr().out.split())
    assert chunk in said and clipping in said


@pytest.mark.slow
def test_bits_are_those_of_the_choice(language_options, tmp_path):
    options = language_options("text")
    options["training"]["num_steps"] = 2
    automatic = dpjax.finetune(**options)
    given = dpjax.finetune(
        **options | {"output_dir": tmp_path / "given", "compute": {"vocab_chunk": None}}
    )
    assert [row["loss"] for row in automatic.metrics] == [row["loss"] for row in given.metrics]


def test_on_the_command_line(capsys):
    plan = ["plan", "--num-units", "1000", "--privacy.noise-multiplier", "1"]
    assert main([*plan, "--compute.device-memory-gb", "16"]) == 0
    with pytest.raises(SystemExit):
        main([*plan, "--compute.device-memory-gb", "-1"])
    assert "device_memory_gb must be a positive number" in capsys.readouterr().err
