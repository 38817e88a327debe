"""A plan's numbers are the accountant's and the compiler's; what does not fit is refused."""

import dataclasses
import json
import math

import pytest
from dpjax_accounting import (
    DPSGD,
    FixedSizeDPSGD,
    FullBatch,
    ShuffledDPSGD,
    calibrate_noise,
    default_delta,
)

import dpjax
from dpjax.cli.main import main
from dpjax.finetuning import FinetuneConfig, plot_noise, set_up
from dpjax.finetuning.planning import make

NOISE = {"num_units": 2000, "privacy": {"target_epsilon": 3.0}}


@pytest.fixture(scope="module")
def noise():
    """A plan without a model."""
    return dpjax.plan(**NOISE, training={"num_epochs": 5.0}, batch_sizes=[64, 256])


def run(capsys, *arguments):
    """Runs `dpjax plan`; returns the exit status, and what it says, on one line."""
    try:
        status = main(["plan", *map(str, arguments)])
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return status, said.out if status == 0 else " ".join(said.err.split())


def test_numbers_are_the_accountants(noise):
    for choice, steps in zip(noise.choices, (157, 40), strict=True):
        mechanism = calibrate_noise(
            3.0,
            noise.delta,
            num_units=2000,
            expected_batch_size=choice.expected_batch_size,
            num_steps=steps,
        )
        assert choice.noise_multiplier == mechanism.noise_multiplier
        assert choice.num_steps == steps
        assert choice.epsilon == mechanism.epsilon(noise.delta) <= 3.0
        assert choice.relative_noise == mechanism.noise_multiplier / choice.expected_batch_size
    assert noise.asked == noise.choices[1]
    assert [choice.num_steps for choice in noise.at_same_steps] == [40, 40]


def test_noise_is_flat_from_the_size_that_is_named(noise):
    def relative(size):
        mechanism = calibrate_noise(
            3.0, noise.delta, num_units=2000, expected_batch_size=size, num_steps=40
        )
        return mechanism.noise_multiplier / size

    full = noise.full_batch.relative_noise
    assert relative(noise.flat_from) <= 1.1 * full < relative(round(0.9 * noise.flat_from))
    assert any("hardly falls beyond a batch of about" in said for said in noise.advice)


def test_noise_that_is_given_has_its_epsilon():
    promise = {"noise_multiplier": 2.0, "delta": 1e-5}
    forecast = dpjax.plan(
        num_units=2000, privacy=promise, training={"num_steps": 50}, batch_sizes=[100]
    )
    mechanism = DPSGD(num_units=2000, expected_batch_size=100, noise_multiplier=2.0, num_steps=50)
    assert forecast.choices[0].epsilon == mechanism.epsilon(1e-5)
    assert forecast.flat_from is None


@pytest.mark.parametrize("sampling", ["fixed-size", "shuffled", "full-batch"])
def test_the_sampling_decides_what_the_accountant_counts(sampling, tmp_path):
    promise = {"noise_multiplier": 4.0, "sampling": sampling, "neighboring": "replace_one"}
    training = {"num_epochs": 2.0}
    if sampling != "full-batch":
        training["expected_batch_size"] = 100
    forecast = dpjax.plan(num_units=2000, privacy=promise, training=training)
    common = {"noise_multiplier": 4.0, "num_units": 2000, "neighboring": "replace_one"}
    mechanism = {
        "fixed-size": lambda: FixedSizeDPSGD(batch_size=100, num_steps=40, **common),
        "shuffled": lambda: ShuffledDPSGD(batch_size=100, num_epochs=2, **common),
        "full-batch": lambda: FullBatch(num_steps=2, **common),
    }[sampling]()
    assert forecast.asked.epsilon == mechanism.epsilon(forecast.delta)
    assert forecast.asked.num_steps == (2 if sampling == "full-batch" else 40)
    plot_noise(forecast, tmp_path / "noise.png")


def test_too_few_records_for_epsilon():
    forecast = dpjax.plan(
        num_units=40,
        privacy={"target_epsilon": 0.1},
        training={"expected_batch_size": 10, "num_steps": 20},
        batch_sizes=[10],
    )
    assert any("40 records are too few for ε = 0.1" in said for said in forecast.advice)
    # The rule: √d noise of the full batch against T gradients that point the same way.
    full = forecast.full_batch
    assert full.relative_noise_of_run(100) == pytest.approx(
        math.sqrt(100 * 20) * full.noise_multiplier / (20 * 40)
    )


def test_picture(noise, tmp_path):
    plot_noise(noise, tmp_path / "noise.png")
    assert (tmp_path / "noise.png").read_bytes().startswith(b"\x89PNG")


def test_records_that_a_coin_may_leave_out_count_for_delta():
    forecast = dpjax.plan(
        num_units=200_000,
        privacy={"noise_multiplier": 2.0},
        audit={"hold_out": 0.5},
        training={"num_steps": 10},
        batch_sizes=[100],
    )
    assert forecast.delta == default_delta(200_000) < default_delta(100_000)


def test_the_same_command_with_plan_in_the_place_of_finetune(cheap_options, tmp_path, capsys):
    arguments = ["--model", cheap_options["model"], "--output-dir", tmp_path / "run"]
    arguments += ["--train-data.path", cheap_options["train_data"]]
    arguments += [
        "--eval-data.path",
        cheap_options["eval_data"],
        "--tuning",
        "head",
        "--num-layers",
        1,
    ]
    arguments += ["--privacy.noise-multiplier", 4, "--privacy.clip-norm", 0.5]
    arguments += ["--training.expected-batch-size", 40, "--training.num-steps", 4]
    arguments += ["--training.microbatch-size", "auto", "--training.max-length", 16]
    status, said = run(capsys, *arguments, "--batch-sizes", 40, "--json", "--measure")
    assert status == 0
    planned = json.loads(said)
    assert not (tmp_path / "run").exists()
    paths = {"model": str(cheap_options["model"]), "output_dir": str(tmp_path / "run")}
    training = cheap_options["training"] | {"microbatch_size": "auto"}
    config = FinetuneConfig.from_options(cheap_options | paths | {"training": training})
    ready = set_up(config)
    model = planned["model"]
    assert model["memory"]["microbatch_size"] == ready.plan.microbatch_size
    share = f"{model['num_trained']:,} of {model['num_trained'] + model['num_frozen']:,} "
    assert ready.model.describe_share().startswith(share)
    assert planned["asked"]["epsilon"] == ready.plan.mechanism.epsilon(planned["delta"])
    assert planned["asked"]["relative_norm"] == pytest.approx(
        math.sqrt(model["num_trained"]) * 4.0 / 40
    )
    microbatch, update = model["seconds"]
    assert planned["asked"]["seconds"] == pytest.approx(4 * (5 * microbatch + update))


def test_no_weights_are_read(cheap_options, tmp_path, monkeypatch):
    folder = tmp_path / "without"
    folder.mkdir()
    for file in cheap_options["model"].iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(make, "memory_limit", lambda given: 1000)
    options = {name: cheap_options[name] for name in ("train_data", "privacy", "training")}
    forecast = dpjax.plan(**options, model=folder, tuning="head", batch_sizes=[40])
    assert forecast.model.memory.microbatch_size == 16
    assert any("A step does not fit" in said for said in forecast.advice)


def test_owners_are_counted_and_their_records_computed_together(cheap_options, tmp_path):
    owned = tmp_path / "owned.csv"
    header, *lines = cheap_options["train_data"].read_text().splitlines()
    lines = [f"{line},{number % 80}" for number, line in enumerate(lines)]
    owned.write_text("\n".join([f"{header},author", *lines]) + "\n")
    source = {"path": str(owned), "owner_column": "author"}
    training = {"expected_batch_size": 16, "num_steps": 4, "microbatch_size": 8, "max_length": 16}
    options = {"train_data": source, "training": training, "batch_sizes": [16]}
    options["privacy"] = {"noise_multiplier": 4.0, "delta": 1e-5, "records_per_owner": 3}
    forecast = dpjax.plan(**options, model=cheap_options["model"], tuning="head")
    assert forecast.num_units == dpjax.plan(**options).num_units == 80
    mechanism = DPSGD(num_units=80, expected_batch_size=16, noise_multiplier=4.0, num_steps=4)
    assert forecast.asked.epsilon == forecast.choices[0].epsilon == mechanism.epsilon(1e-5)
    # Two owners with three records each.
    model = forecast.model
    assert model.units_at_once == 2
    assert model.memory.microbatch == 6 * (16 * 4 + 16 + 4) + 6
    timed = dataclasses.replace(model, seconds=(1.0, 0.5))
    assert timed.seconds_of_run(16, 4) == 4 * (8 + 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--privacy.target-epsilon", 3], "give num_units, the number of training records"),
        (["--num-units", 2000], "give privacy.target_epsilon (for instance 3)"),
        (
            ["--num-units", 100, "--privacy.target-epsilon", 3],
            "training.expected_batch_size=256 is more than the 100 training records or owners",
        ),
        (
            ["--num-units", 1000, "--privacy.target-epsilon", 3, "--batch-sizes", 64, 2000],
            "batch_sizes must be at most the 1000 training records, got 2000",
        ),
        (["--num-units", 9, "--model", "m", "--privacy.target-epsilon", 3], "train_data is miss"),
        (["--num-units", 9, "--measure", "--privacy.target-epsilon", 3], "measure=True needs a mo"),
        (["--num-units", "many", "--privacy.target-epsilon", 3], "it must be a whole number"),
    ],
)
def test_mistakes(arguments, message, capsys):
    status, said = run(capsys, *arguments)
    assert status == 2
    assert message in said


def test_noise_of_laplace_is_shown_by_its_standard_deviation():
    forecast = dpjax.plan(
        num_units=4000,
        privacy={"noise_multiplier": 2.0, "noise_distribution": "laplace"},
        training={"gradient": "zeroth-order"},
        batch_sizes=[256],
    )
    (choice,) = forecast.choices
    assert choice.noise_multiplier == 2.0
    assert choice.relative_noise == pytest.approx(math.sqrt(2) * 2.0 / 256)
