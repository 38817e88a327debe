"""Runs that learn which of two answers is better."""

import json
import random

import numpy as np
import pytest
from dpjax_accounting import verify_report
from safetensors.numpy import load_file

import dpjax
from dpjax.audit import read_audit_report, verify_audit_report
from dpjax.cli.main import main
from tests.support.runs import check, weights

COLOURS = {"apple": "red", "sky": "blue", "grass": "green", "snow": "white"}


def write_pairs(path, num, seed, as_messages=False):
    """Things with their colour chosen, and the colour of another thing rejected."""
    rng = random.Random(seed)
    with path.open("w") as file:
        for _ in range(num):
            thing, other = rng.sample(list(COLOURS), 2)
            colours = {"chosen": COLOURS[thing], "rejected": COLOURS[other]}
            if as_messages:
                asked = {"role": "user", "content": f"the {thing}?"}
                record = {
                    side: [asked, {"role": "assistant", "content": colour}]
                    for side, colour in colours.items()
                }
            else:
                record = {side: f" {colour}" for side, colour in colours.items()}
                record["prompt"] = f"the {thing} is"
            file.write(json.dumps(record) + "\n")
    return path


def write_different_pairs(path):
    """36 pairs, all different."""
    things = ((a, b, n) for n in range(3) for a in COLOURS for b in COLOURS if a != b)
    rows = [
        {"prompt": f"{n} the {a} is", "chosen": COLOURS[a], "rejected": COLOURS[b]}
        for a, b, n in things
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def comparing(decoder, tmp_path):
    """Options of a run of a few seconds."""
    return {
        "model": decoder,
        "task": "preference",
        "train_data": write_pairs(tmp_path / "train.jsonl", 200, 0),
        "eval_data": write_pairs(tmp_path / "eval.jsonl", 40, 1),
        "output_dir": tmp_path / "run",
        "lora": {"rank": 4},
        "preference": {"beta": 0.5},
        "privacy": {"noise_multiplier": 0.5, "clip_norm": 1.0},
        "training": {
            "expected_batch_size": 64,
            "microbatch_size": 32,
            "num_steps": 20,
            "learning_rate": 2e-2,
            "max_length": 24,
        },
        "generation": {"num_prompts": 2, "max_new_tokens": 4},
        "seed": 5,
    }


@pytest.mark.slow
@pytest.mark.parametrize("as_messages", [False, True], ids=["texts", "messages"])
def test_a_run_raises_the_margin_of_rewards(comparing, tmp_path, as_messages, capsys):
    if as_messages:
        comparing["train_data"] = write_pairs(tmp_path / "t.jsonl", 200, 0, as_messages=True)
        comparing["eval_data"] = write_pairs(tmp_path / "e.jsonl", 40, 1, as_messages=True)
    comparing["training"] |= {"evaluate_every": 10}
    result = dpjax.finetune(**comparing)
    assert result.warnings == ()
    assert result.eval_accuracy > 0.8 and result.eval_reward_margin > 0.5
    assert result.eval_loss < 0.6 < result.metrics[0]["loss"]
    assert result.metrics[0]["loss"] == pytest.approx(np.log(2), rel=1e-3)
    row = result.metrics[9]
    assert {"eval_loss", "eval_accuracy", "eval_reward_margin"} <= row.keys()
    assert result.eval_perplexity is None and result.epsilon > 0
    assert len(result.samples) == 2 and result.samples[0].expected in COLOURS.values()
    assert verify_report(result.privacy) == []
    assert any("A record is a pair" in line for line in result.privacy["assumptions"])
    report = (result.output_dir / "report.md").read_text()
    assert f"| Accuracy on held-out pairs | {result.eval_accuracy:.4f} of 40 |" in report
    margin = f"{result.eval_reward_margin:.4f}"
    assert f"| Mean reward margin on held-out pairs | {margin} |" in report
    assert f"| Loss on held-out pairs | {result.eval_loss:.4f} nats |" in report
    assert result.attack is not None and not (result.output_dir / "private").exists()
    said = capsys.readouterr().out
    assert "pairs of answers, with beta 0.5" in said and "computed once" in said


@pytest.mark.slow
def test_what_is_computed_once_is_what_steps_compute(comparing, tmp_path):
    comparing["training"] |= {"num_steps": 6}
    once = dpjax.finetune(**comparing)
    never = dpjax.finetune(
        **comparing | {"output_dir": tmp_path / "never", "compute": {"cache_frozen": "never"}}
    )
    ours, other = (
        load_file(each.output_dir / "adapter/adapter_model.safetensors") for each in (once, never)
    )
    for name, value in ours.items():
        np.testing.assert_allclose(value, other[name], atol=1e-4, err_msg=name)
    assert once.eval_reward_margin == pytest.approx(never.eval_reward_margin, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("cache_frozen", ["auto", "never"])
def test_a_stopped_run_goes_on_bit_for_bit(comparing, stop_after, tmp_path, cache_frozen):
    comparing["training"] |= {"num_steps": 6}
    comparing["compute"] = {"cache_frozen": cache_frozen}
    whole = dpjax.finetune(**comparing)
    stopped = comparing | {"output_dir": tmp_path / "stopped"}
    stop_after(2, **stopped)
    with pytest.raises(ValueError, match=r"with preference\.beta=0\.5, now it is 0\.1"):
        dpjax.finetune(**stopped | {"preference": {"beta": 0.1}}, resume=True)
    resumed = dpjax.finetune(**stopped, resume=True)
    assert weights(resumed.output_dir) == weights(whole.output_dir)
    assert resumed.eval_reward_margin == whole.eval_reward_margin


def test_only_the_log_probabilities_of_the_reference_are_kept(comparing):
    run = check(comparing)
    (kept,) = run.plan.features.arrays
    assert kept.shape == (2,) and kept.token_axes == ()
    assert run.plan.features.share == pytest.approx(0.5, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random-pair", "swapped-pair"])
def test_canaries_are_pairs(comparing, kind):
    audit = {"num_canaries": 30, "kind": kind, "most_share": 0.6}
    comparing |= {"privacy": {}, "non_private": True, "audit": audit}
    comparing["training"] |= {"num_steps": 60, "max_length": 40}
    comparing["eval_data"] = write_different_pairs(comparing["eval_data"].with_name("more.jsonl"))
    result = dpjax.finetune(**comparing)
    assert result.warnings == ()
    report = read_audit_report(result.output_dir / "audit.json")
    assert verify_audit_report(report) == []
    assert report["score"] == "loss" and report["details"]["kind"] == kind
    if kind == "random-pair":
        assert report["attack"]["auc"] > 0.8


def test_swapped_pairs_are_no_longer_held_out(comparing):
    audit = {"num_canaries": 30, "kind": "swapped-pair", "most_share": 0.5}
    comparing["eval_data"] = write_different_pairs(comparing["eval_data"].with_name("more.jsonl"))
    run = check(comparing | {"audit": audit})
    assert len(run.plan.evaluation) == 6 and len(run.audited.slots) == 230
    held_out = set(run.plan.evaluation.contents())
    assert not held_out & set(run.audited.encoded.contents())


@pytest.mark.slow
def test_the_command_says_what_the_pairs_came_to(comparing, capsys):
    comparing["training"] |= {"num_steps": 2}
    groups = ("lora", "preference", "privacy", "training", "generation")
    words = ["finetune", "--train-data.path", str(comparing["train_data"])]
    words += ["--eval-data.path", str(comparing["eval_data"])]
    for name in ("model", "task", "output_dir", "seed"):
        words += [f"--{name.replace('_', '-')}", str(comparing[name])]
    for group in groups:
        for name, value in comparing[group].items():
            words += [f"--{group}.{name.replace('_', '-')}", str(value)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Accuracy on held-out pairs" in said and "Mean reward margin" in said


BAD = {
    "full": ({"tuning": "full"}, "give tuning=lora, got tuning=full"),
    "biases": ({"lora": {"bias": "all"}}, r"lora\.bias trains.*leave it out, got 'all'"),
    "parts in full": (
        {"lora": {"modules_to_save": ("lm_head",)}},
        r"lora\.modules_to_save trains parameters of it",
    ),
    "beta": ({"preference": {"beta": 0.0}}, r"preference\.beta must be .*got 0\.0"),
    "smoothing": ({"preference": {"label_smoothing": 0.5}}, r"below 0\.5, got 0\.5"),
    "another task": (
        {"task": "causal_lm"},
        r"preference\.beta has no meaning with task=causal_lm: leave it out, got 0\.5",
    ),
    "the other smoothing": (
        {"training": {"label_smoothing": 0.1}},
        r"training\.label_smoothing has no meaning with task=preference",
    ),
    "reduction": (
        {"training": {"loss_reduction": "sum"}},
        r"training\.loss_reduction has no meaning with task=preference",
    ),
    "canaries": (
        {"audit": {"num_canaries": 30, "kind": "mislabelled"}},
        r"audit\.kind must be one of random-pair, swapped-pair with task=preference",
    ),
    "score": (
        {"audit": {"num_canaries": 30, "score": "ratio"}},
        r"audit\.score must be one of loss with task=preference",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=list(BAD))
def test_what_does_not_fit_is_refused(comparing, changes, message):
    with pytest.raises(ValueError, match=message) as said:
        dpjax.finetune(**comparing | changes)
    assert "\n" not in str(said.value)
    assert not comparing["output_dir"].exists()


def test_a_misspelt_option_is_refused(comparing):
    with pytest.raises(TypeError, match=r"Did you mean 'preference\.beta'"):
        dpjax.finetune(**comparing | {"preference": {"betta": 0.1}})


def test_a_prompt_longer_than_max_length_is_refused(comparing):
    record = {"prompt": "the sky is " * 9, "chosen": "blue", "rejected": "red"}
    with comparing["train_data"].open("a") as file:
        file.write(json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=r"train\.jsonl: 1 of 201 records.*\(records 201\)"):
        dpjax.finetune(**comparing)


def test_an_encoder_has_no_answers(comparing, tiny_checkpoint):
    with pytest.raises(ValueError, match="no head for causal lm"):
        dpjax.finetune(**comparing | {"model": tiny_checkpoint})
