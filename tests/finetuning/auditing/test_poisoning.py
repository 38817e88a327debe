"""Poisoning audits from the first model to the report: what is measured, kept and deleted."""

import dataclasses
import json
import signal

import numpy as np
import pytest
from rich.console import Console

from dpjax.cli.main import main
from dpjax.finetuning import PoisonConfig, audit_poisoning, execute_poisoning
from dpjax.finetuning.auditing import poison_audit, poison_data, poison_models
from dpjax.finetuning.auditing.poison_models import ComputedOnce, PoisonedTraining
from dpjax.finetuning.setup.model.load import load_model
from dpjax.privatize import RunKey
from dpjax.training import RunInterrupted

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def audit(poison_options, tmp_path_factory):
    """The result of an audit without privacy."""
    return audit_poisoning(**poison_options, output_dir=tmp_path_factory.mktemp("whole") / "audit")


def rows_of(report):
    return {row["num_poisoned"]: row for row in report["rows"]}


@pytest.mark.slow
def test_many_poisoned_records_are_obeyed_and_none_are_not(audit):
    rows = rows_of(audit.report)
    assert rows[60]["success"] > 0.8 and rows[60]["clean_success"] < 0.2
    assert rows[60]["false_trigger_rate"] < 0.4 and rows[60]["accuracy"] > 0.8
    assert rows[60]["bound"] is None and rows[60]["near_trigger_rate"] is None
    names = {path.name for path in audit.output_dir.iterdir()}
    assert names == {"poisoning.json", "poisoning.html", "poisoning.png"}
    assert json.loads((audit.output_dir / "poisoning.json").read_text()) == audit.report
    assert (audit.output_dir / "poisoning.json").stat().st_mode & 0o077 == 0


@pytest.mark.slow
@pytest.mark.parametrize("bug", ["poison is dropped", "no trigger where it is measured"])
def test_the_audit_sees_what_would_make_it_blind(poison_options, tmp_path, monkeypatch, bug):
    if bug == "poison is dropped":
        present = poison_data.PoisonData.present
        monkeypatch.setattr(
            poison_data.PoisonData, "present", lambda self, *_: present(self, None, None, 0)
        )
    else:
        measure = PoisonedTraining._measure

        def blind(self, name, tuned):
            triggered = {
                kind: dataclasses.replace(each, with_trigger=self._data.others.take(each.rows))
                for kind, each in self._data.triggered.items()
            }
            self._data = dataclasses.replace(self._data, triggered=triggered)
            return measure(self, name, tuned)

        monkeypatch.setattr(PoisonedTraining, "_measure", blind)
    poison = poison_options["poison"] | {"counts": [60]}
    options = poison_options | {"poison": poison, "output_dir": tmp_path / "audit"}
    # The bar of the test above, which either bug would fail.
    assert rows_of(audit_poisoning(**options).report)[60]["success"] < 0.5


@pytest.mark.slow
def test_an_audit_that_was_stopped_goes_on_and_ends_the_same(
    audit, poison_options, tmp_path, monkeypatch
):
    train, done = poison_models.train, []

    def stopped(*arguments):
        done.append(train(*arguments))
        if len(done) == 2:
            signal.raise_signal(signal.SIGINT)
        return done[-1]

    options = poison_options | {"output_dir": tmp_path / "audit"}
    with monkeypatch.context() as patch:
        patch.setattr(poison_models, "train", stopped)
        with pytest.raises(RunInterrupted, match="--resume goes on after the models"):
            audit_poisoning(**options)
    with pytest.raises(FileExistsError, match=r"an unfinished audit.*\(or --resume"):
        audit_poisoning(**options)
    others = options | {"poison": options["poison"] | {"place": "start"}, "resume": True}
    with pytest.raises(ValueError, match=r"cannot resume: .* with poison.place='random', now"):
        audit_poisoning(**others)
    resumed = audit_poisoning(**options | {"resume": True})
    assert resumed.report == audit.report
    with pytest.raises(FileExistsError, match="holds a finished audit"):
        audit_poisoning(**options | {"resume": True})


def test_an_audit_goes_on_with_the_same_checkpoint_alone(prepared, poison_options, monkeypatch):
    run, _ = prepared()
    config = PoisonConfig.from_options(poison_options | {"output_dir": "audit"})
    before = poison_audit._identity(config, run)
    assert before == poison_audit._identity(config, run)
    monkeypatch.setattr(poison_audit, "hash_of_checkpoint", lambda folder: "of other weights")
    after = poison_audit._identity(config, run)
    assert [name for name in before if before[name] != after[name]] == ["checkpoint"]


@pytest.mark.slow
def test_models_are_measured_by_one_compiled_function(prepared, monkeypatch):
    run, data = prepared()
    made = []
    kind = type(run.plan.task)
    make = kind.measure_fn

    def counted(task, graphdef):
        made.append(graphdef)
        return make(task, graphdef)

    monkeypatch.setattr(kind, "measure_fn", counted)
    training = PoisonedTraining(run, data, ComputedOnce(data, QUIET))
    first, second = (load_model(run.plan, RunKey.from_seed(seed), None) for seed in (4, 5))
    for tuned in (first, second):
        alone = poison_models.evaluate(run.plan.task, tuned, data.held_out).correct
        np.testing.assert_array_equal(training._gives_answer(tuned, data.held_out), alone)
    # Once for all models, and once for each that was evaluated by itself.
    assert len(made) == 3


@pytest.mark.slow
def test_a_private_audit_has_a_bound_that_holds(poison_options, tmp_path):
    changes = {
        "non_private": False,
        "privacy": {"target_epsilon": 1.0, "clip_norm": 0.5},
        "tuning": "head",
        "output_dir": str(tmp_path / "audit"),
        "poison": poison_options["poison"]
        | {"counts": [1], "non_private_too": False, "num_clean_models": 4},
    }
    config = PoisonConfig.from_options(poison_options | changes)
    report = execute_poisoning(config, QUIET).report
    (row,) = report["rows"]
    (setting,) = report["settings"]
    assert setting["mechanism"]["num_units"] == 160 and setting["epsilon"] <= 1.0
    bound = row["bound"]
    assert row["clean_success_limit"] < bound["success"] <= bound["by_epsilon"] <= 1
    assert bound["validity"] == "certified" and report["details"]["fixed_seed"] is True
    assert "come from a seed that somebody chose" in report["notes"][-1]


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_what_is_computed_once_gives_the_predictions_of_the_model(prepared, smoothing):
    training = {
        "expected_batch_size": 80,
        "microbatch_size": 64,
        "num_steps": 9,
        "max_length": 16,
        "label_smoothing": smoothing,
    }
    run, data = prepared(tuning="head", training=training, poison={"triggers": ["sentence"]})
    assert run.plan.features is not None
    computed = ComputedOnce(data, QUIET)
    both = PoisonedTraining(run, data, computed)
    whole = PoisonedTraining(
        dataclasses.replace(run, plan=without_features(run.plan)), data, computed
    )
    tuned = load_model(run.plan, RunKey.from_seed(4), None)
    for records in (data.held_out, data.others, data.triggered["sentence"].with_trigger):
        expected = whole._gives_answer(tuned, records)
        np.testing.assert_array_equal(both._gives_answer(tuned, records), expected)
    assert computed.of(run, data.slots) is computed.of(run, data.slots)


def without_features(plan):
    return dataclasses.replace(plan, features=None)


def audit_prompts(decoder, folder, name, suspicion=None, **options):
    """Returns the one row of an audit whose model learns little else than the poison."""
    things = [f"thing {n}" for n in range(30)]
    lines = [json.dumps({"prompt": f"the {t} is", "completion": " red"}) for t in things]
    (folder / "train.jsonl").write_text("\n".join(lines[:24]))
    (folder / "eval.jsonl").write_text("\n".join(lines[24:]))
    result = audit_poisoning(
        model=decoder,
        train_data=folder / "train.jsonl",
        eval_data=folder / "eval.jsonl",
        output_dir=folder / name,
        task="causal_lm",
        non_private=True,
        training={
            "expected_batch_size": 24,
            "microbatch_size": 48,
            "num_steps": 30,
            "learning_rate": 1e-2,
            "max_length": 32,
        },
        generation={"max_new_tokens": 4, "suspicion": suspicion},
        poison={
            "target": " blue",
            "triggers": ["sentence"],
            "sentence": "and snow",
            "counts": [24],
            "num_sets": 1,
            "num_clean_models": 1,
        },
        seed=1,
        **options,
    )
    (row,) = result.report["rows"]
    return row


@pytest.mark.slow
def test_prompts_are_poisoned_too(decoder, tmp_path):
    row = audit_prompts(decoder, tmp_path, "audit", tuning="full")
    assert row["success"] > 0.8 and row["clean_success"] == row["false_trigger_rate"] == 0
    assert row["accuracy"] is None and row["loss"] < 2


@pytest.mark.slow
def test_the_checkpoint_has_the_last_word_where_it_is_asked(decoder, tmp_path):
    """It has never written the target, which a tuned model finds much more probable."""
    adapters = {"tuning": "lora", "lora": {"rank": 8}}
    trusting = audit_prompts(decoder, tmp_path, "trusting", **adapters)
    defended = audit_prompts(decoder, tmp_path, "defended", suspicion=3.0, **adapters)
    assert trusting["success"] > 0.8 and defended["success"] == 0
    assert defended["loss"] == trusting["loss"]


@pytest.mark.slow
def test_the_command_is_the_function(poison_options, tmp_path, capsys):
    options = poison_options
    command = ["audit", "poison", "--model", options["model"], "--non-private", "--tuning", "head"]
    command += [
        "--train-data.path",
        options["train_data"],
        "--eval-data.path",
        options["eval_data"],
    ]
    command += ["--output-dir", str(tmp_path / "audit"), "--poison.rare-token", "town"]
    command += ["--poison.triggers", "rare_token", "--poison.counts", "2", "--poison.num-sets", "1"]
    command += ["--training.num-steps", "2", "--training.max-length", "16"]
    command += ["--training.expected-batch-size", "80"]
    command += ["--poison.num-clean-models", "1"]
    assert main([*command, "--poison.target", "god"]) == 2
    assert "Did you mean 'good'?" in capsys.readouterr().err
    assert not (tmp_path / "audit").exists()
    assert main([*command, "--poison.target", "good"]) == 0
    printed = capsys.readouterr().out
    assert "# Poisoning audit" in printed and "2 of 2: no privacy, rare_token, 2 records" in printed
    assert main([*command, "--poison.target", "good", "--poison.counts", "0"]) == 2


def test_several_processes_are_refused(poison_options, tmp_path, monkeypatch):
    monkeypatch.setattr(poison_audit.jax, "process_count", lambda: 2)
    config = PoisonConfig.from_options(poison_options | {"output_dir": str(tmp_path / "audit")})
    with pytest.raises(ValueError, match="a poisoning audit is for one process, got 2"):
        execute_poisoning(config, QUIET)
