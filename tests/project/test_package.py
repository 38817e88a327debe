"""The front door: what an import costs and offers, and the small commands."""

import dataclasses
import json
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from dpjax_accounting import DPSGD, DatasetIdentity, Ledger, mechanism_from_dict

import dpjax
from dpjax.cli.main import main

HEAVY = (
    "transformers",
    "datasets",
    "matplotlib",
    "orbax",
    "torch",
    "flax",
    "optax",
    "dp_accounting",
)


def test_an_import_loads_nothing_heavy():
    code = f"import sys, dpjax; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["dpjax", "dpjax_accounting"])
def test_type_checkers_are_told_that_the_package_is_annotated(package):
    assert (resources.files(package) / "py.typed").is_file()


def test_the_citation_has_the_version_of_the_package():
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert f"version: {project['version']}\n" in (root / "CITATION.cff").read_text()
    assert project["version"] == dpjax.__version__


def test_public_names():
    names = {"DataSource", "FinetuneConfig", "LoraConfig", "PoissonSampler", "Privacy", "RunKey"}
    names |= {"ClippedGrad", "Training", "clipped_grad", "finetune", "gaussian_noise", "noisy_mean"}
    names |= {"FlatClipping", "PerGroupClipping", "AutomaticClipping", "AdaptiveClipping"}
    names |= {"unit_loss", "private_gradient", "PrivateGradient", "StepTotal", "sampler_for"}
    names |= {"FinetuneResult", "RunInterrupted", "RunStopped", "Compute", "Generation"}
    assert names <= set(dpjax.__all__) <= set(vars(dpjax))
    assert callable(dpjax.finetune)


def test_epsilon_command(capsys):
    arguments = "--num-units 1000 --expected-batch-size 100 --noise-multiplier 4 --num-steps 30"
    assert main(["epsilon", *arguments.split(), "--delta", "1e-5"]) == 0
    printed = capsys.readouterr().out
    run = DPSGD(num_units=1000, expected_batch_size=100, noise_multiplier=4.0, num_steps=30)
    assert f"{run.epsilon(1e-5):.6g}" in printed
    assert "add_or_remove_one" in printed
    assert "right in at most" in printed


def test_epsilon_command_prints_bounds_and_no_approximation(capsys):
    # ε is 0.19945; by a central limit theorem, which is no bound, it would be 0.037.
    arguments = "--num-units 1000 --expected-batch-size 10 --noise-multiplier 1 --num-steps 1"
    assert main(["epsilon", *arguments.split(), "--delta", "1e-5", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) >= {"epsilon", "epsilon_renyi"}
    assert min(value for name, value in printed.items() if "epsilon" in name) > 0.19945
    for command in ("epsilon", "calibrate"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        words = capsys.readouterr().out.lower()
        assert "--delta" in words
        assert not any(word in words for word in ("clt", "central", "gdp", "--accountant"))


def test_calibrate_command(capsys):
    arguments = "--target-epsilon 1 --num-units 1000 --expected-batch-size 100 --num-steps 30"
    assert main(["calibrate", *arguments.split()]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    values = {row[1].strip(): row[2].strip() for row in rows}
    assert 0.99 < float(values["epsilon"]) <= 1.0
    assert values["delta"] == "1e-05"


def test_a_target_that_no_noise_meets_is_refused(capsys):
    arguments = "--num-units 600 --expected-batch-size 50 --num-steps 2 --target-epsilon 1e-9"
    assert main(["calibrate", *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dpjax: error: --target-epsilon 1e-09 cannot be met")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("--expected-batch-size 100 --noise-multiplier 8", "num_steps"),
        ("--num-steps 30 --noise-multiplier 8", "expected_batch_size"),
    ],
)
def test_calibrate_finds_what_is_left_out(given, name, capsys):
    target = "--target-epsilon 0.2 --num-units 1000 --delta 1e-5 --json"
    assert main(["calibrate", *f"{target} {given}".split()]) == 0
    printed = json.loads(capsys.readouterr().out)
    mechanism = mechanism_from_dict(printed["mechanism"])
    assert mechanism.epsilon(1e-5) == printed["epsilon"] <= 0.2
    larger = dataclasses.replace(mechanism, **{name: getattr(mechanism, name) + 1})
    assert larger.epsilon(1e-5) > 0.2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--num-steps 30", "Left out: --expected-batch-size, --noise-multiplier."),
        (
            "--num-steps 30 --noise-multiplier 8 --expected-batch-size 9",
            "Left out: none. Give exactly two of them, or ask `dpjax epsilon`",
        ),
        ("--num-steps 0 --noise-multiplier 8", "num_steps=0 releases nothing"),
    ],
)
def test_calibrate_wants_exactly_one_left_out(given, words, capsys):
    target = "--target-epsilon 0.2 --num-units 1000"
    assert main(["calibrate", *f"{target} {given}".split()]) == 2
    assert words in capsys.readouterr().err


def test_numbers_as_json(capsys):
    arguments = "--num-units 1000 --expected-batch-size 100 --num-steps 30 --delta 1e-5 --json"
    assert main(["epsilon", *arguments.split(), "--noise-multiplier", "4"]) == 0
    printed = json.loads(capsys.readouterr().out)
    mechanism = mechanism_from_dict(printed["mechanism"])
    given = DPSGD(num_units=1000, expected_batch_size=100, noise_multiplier=4.0, num_steps=30)
    assert mechanism == given
    assert printed["epsilon"] == mechanism.epsilon(printed["delta"]) < printed["epsilon_renyi"]
    assert 0.5 < printed["best_guess_accuracy"] < printed["posterior_belief"] < 1
    assert main(["calibrate", *arguments.split(), "--target-epsilon", "0.5"]) == 0
    assert 0.49 < json.loads(capsys.readouterr().out)["epsilon"] <= 0.5


def test_report_and_ledger_commands(tmp_path, capsys):
    ledger, report = Ledger.create(tmp_path / "ledger", DatasetIdentity.of([b"x"])), tmp_path / "r"
    run = DPSGD(num_units=1, expected_batch_size=1, noise_multiplier=8.0, num_steps=2)
    ledger.charge("one", run, key="key")
    path = str(ledger.path)
    assert main(["ledger", "total", path, "--delta", "1e-5"]) == 0
    assert f"epsilon={ledger.epsilon(1e-5):.6g}" in capsys.readouterr().out
    assert main(["ledger", "show", path]) == 0
    assert main(["ledger", "merge", path, path, "--output", str(tmp_path / "merged")]) == 0
    assert "on record: 1" in capsys.readouterr().out
    report.write_text('{"guarantees": {}}')
    assert main(["report", "verify", str(report)]) == 1
    assert "Did you mean 'guarantee'" in capsys.readouterr().out
    assert main(["report", "show", str(report)]) == 2
    assert main(["report", "verify", str(tmp_path / "nothing")]) == 2
    assert "Traceback" not in capsys.readouterr().err


EPSILON = "epsilon --num-units 9 --noise-multiplier 1"
CALIBRATE = "calibrate --num-units 9 --num-steps 1"
FINETUNE = "finetune --model m --train-data.path t --eval-data.path e --output-dir o"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"{EPSILON} --num-steps 1 --expected-batch-size 20", "20"),
        (f"{EPSILON} --num-step 1 --expected-batch-size 2", "--num-steps"),
        (f"{CALIBRATE} --target-epsilon -1 --expected-batch-size 2", "-1"),
        (f"{FINETUNE} --privacy.target-epsilon abc", "it must be a number, got 'abc'."),
        (f"{FINETUNE} --training.num-steps 1.5", "it must be a whole number, got '1.5'."),
        (f"{FINETUNE} --privacy.target-epsilon None", "give privacy.target_epsilon"),
    ],
)
def test_mistakes_are_one_message(command, words, capsys):
    try:
        status = main(command.split())
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr().err
    assert status == 2 and words in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("noise", "steps", "words"),
    [
        ("0.01", "10", "can reach 6000."),
        ("1e-320", "10", "can reach inf."),
        ("0.1", "1000000", "can exceed 1000"),
        ("1", "1" + 30 * "0", "num_steps must be at most 9223372036854775807"),
        ("1", "1" + 400 * "0", "num_steps must be at most 9223372036854775807"),
        ("1", "20000000", "More than 10,000,000 steps"),
    ],
)
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_loss_that_is_too_large_is_refused_in_a_sentence(noise, steps, words, as_json, capsys):
    arguments = ["--noise-multiplier", noise, "--num-steps", steps, *as_json]
    command = ["epsilon", "--num-units", "9", "--expected-batch-size", "5", *arguments]
    assert main(command) == 2
    said = capsys.readouterr()
    assert words in said.err and len(said.err.splitlines()) == 1 and not said.out
