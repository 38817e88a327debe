"""The command of the benchmarks: its names, tiny runs of two of them, and their comparison."""

from __future__ import annotations

import importlib
import json
import re

import pytest

from benchmarks.__main__ import main, parse
from benchmarks.compare import Options as Compared
from benchmarks.finetune import Options as Finetuned
from benchmarks.finetune import make_case, parse_case
from benchmarks.registry import BENCHMARKS, describe
from benchmarks.suite import _LISTS
from benchmarks.suite import PRESETS as SUITES
from benchmarks.suite import Options as SuiteOptions
from benchmarks.support.auto_choice import compare_auto
from benchmarks.support.models import CONFIGS, draw_model, flops_per_token
from benchmarks.support.timing import median_ratio, spread_of, time_in_turns
from dpjax.models import Loading, count_parameters
from dpjax.privatize.structured.costs.choice import StrategyChoice
from dpjax.privatize.structured.costs.cost import StrategyCost

PNG = b"\x89PNG"


def results_of(path):
    assert path.with_suffix(".png").read_bytes().startswith(PNG)
    return json.loads(path.read_text())


def test_without_a_name_all_are_listed(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name in BENCHMARKS:
        assert re.search(rf"^ *{name}\b", shown, flags=re.M)
        assert describe(name).endswith(".")


def test_a_misspelt_name_is_refused_with_the_nearest(capsys):
    assert main(["finetun"]) == 2
    assert "Did you mean 'finetune'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_name_has_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"python -m benchmarks {name}" in capsys.readouterr().out


def test_missing_data_is_said_in_one_line(capsys, tmp_path):
    assert main(["utility", "--recipes", "e2e-smollm2", "--data", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("utility: ") and "lacks dev.csv, test.csv: put E2E" in said
    assert said.count("\n") == 1


def test_a_misspelt_preset_is_refused_with_the_nearest(capsys):
    assert main(["clipping", "--preset", "h20"]) == 2
    assert "Did you mean 'h200'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["clipping", "finetune", "scaling", "suite"])
def test_a_preset_gives_the_sizes_that_no_option_changes(name):
    module = importlib.import_module(f"benchmarks.{name}")
    for preset, sizes in module.PRESETS.items():
        expected = module.Options(preset=preset, **sizes)
        assert parse(module, ["--preset", preset]) == expected


def test_an_option_beside_a_preset_changes_it():
    module = importlib.import_module("benchmarks.finetune")
    options = parse(module, ["--preset", "h200", "--repeats", "3"])
    assert (options.repeats, options.dtype) == (3, "bfloat16")
    assert options.cases == module.PRESETS["h200"]["cases"]


@pytest.mark.parametrize("preset", SUITES)
@pytest.mark.parametrize("rehearse", [False, True])
def test_every_command_of_a_suite_has_options_that_fit(preset, rehearse, tmp_path):
    for entry in _LISTS[preset]:
        command = entry.command(SuiteOptions(preset, rehearse, tmp_path))
        assert command[1:3] == ["-m", "benchmarks"]
        parse(importlib.import_module(f"benchmarks.{command[3]}"), command[4:])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("gpt3:full:16:2", "Did you mean 'gpt2'"),
        ("gpt2:ful:16:2", "Did you mean 'full'"),
        ("gpt2:full:16", "a case is"),
        ("gpt2:full:0:2", "a case is"),
    ],
)
def test_a_case_that_is_none_is_refused(case, message):
    with pytest.raises(ValueError, match=message):
        parse_case(case)


@pytest.mark.slow
def test_a_tiny_run_of_clipping_is_written_with_ratios_to_the_ordinary_step(tmp_path):
    path = tmp_path / "new" / "clipping.json"
    strategies = ["--strategies", "one_backward", "auto"]
    assert main(["clipping", "--preset", "tiny", *strategies, "--output", str(path)]) == 0
    results = results_of(path)
    assert results["benchmark"] == "clipping"
    assert (results["device"], results["options"]["preset"]) == ("cpu", "tiny")
    assert {"python", "jax"} <= results["versions"].keys()
    rows = {row["step"]: row for row in results["rows"]}
    assert rows.keys() == {"ordinary", "one_backward", "auto"}
    assert rows["auto"]["beside_best"]["strategy"] == "one_backward"
    assert rows["auto"]["beside_best"]["memory"] == 1.0
    assert rows["auto"]["seconds"] == rows["one_backward"]["seconds"] != []
    assert rows["ordinary"]["time_ratio"] == rows["ordinary"]["memory_ratio"] == 1.0
    assert all(len(row["seconds"]) == 2 for row in rows.values())


def choice(strategy, **costs):
    """With costs of an example, (operations, bytes); 1,000 bytes may be held."""
    costs = {name: StrategyCost(*cost) for name, cost in costs.items()}
    return StrategyChoice(strategy, costs | {"non_private": StrategyCost(100, 0)}, 1, 16_000)


@pytest.mark.parametrize(
    ("took", "expected"),
    [
        (("two_backwards", 1.5, 110), (1.5, 0.55)),
        (("one_backward", 1.05, 300), (1.05, 1.5)),
        # What does not fit is not compared, though it is faster.
        (("close", 1.0, 200), (1.0, 1.0)),
    ],
)
def test_what_auto_took_beside_the_best_that_fits(took, expected):
    strategy, time, memory = took
    measured = {
        "two_backwards": (1.5, 110),
        "one_backward": (1.0, 300),
        "close": (1.08, 200),
        "materialize": (0.5, 900),
        "auto": (time, memory),
    }
    rows = {
        f"{name}, 4 at once": {"time_ratio": time, "temporary_bytes": memory}
        for name, (time, memory) in measured.items()
    }
    found = choice(
        strategy,
        two_backwards=(150, 10),
        one_backward=(100, 1000),
        close=(108, 500),
        materialize=(50, 1001),
    )
    compared = compare_auto(rows, found, ", 4 at once")
    assert (compared.time, compared.memory) == pytest.approx(expected)
    assert compared.is_timed
    assert f"took {strategy}: {expected[0]:.2f} of the time" in str(compared)
    assert compare_auto(rows, found) is None


def test_without_times_auto_is_compared_by_its_estimates():
    rows = {
        "two_backwards": {"temporary_bytes": 110},
        "one_backward": {"temporary_bytes": 300},
        "auto": {"temporary_bytes": 110},
    }
    found = choice("two_backwards", two_backwards=(150, 10), one_backward=(100, 1000))
    compared = compare_auto(rows, found)
    assert (compared.time, compared.memory) == pytest.approx((1.5, 110 / 300))
    assert "1.50 of the estimated time" in str(compared)
    # Where nothing fits, the smallest is taken, whatever its time.
    crowded = choice("two_backwards", two_backwards=(150, 1001), one_backward=(100, 1002))
    assert compare_auto(rows, crowded) is None


@pytest.mark.slow
def test_a_tiny_run_of_finetune_is_written_and_agrees_with_itself(tmp_path, capsys):
    path = tmp_path / "finetune.json"
    case = "gpt2-1x32:lora:16:2"
    assert main(["finetune", "--preset", "tiny", "--cases", case, "--output", str(path)]) == 0
    rows = {row["step"]: row for row in results_of(path)["rows"]}
    assert rows.keys() == {"ordinary", "not private", "private, auto"}
    for row in rows.values():
        assert row["case"] == case
        # Four records of 16 tokens a step.
        assert row["tokens_per_second"] == pytest.approx(16 * row["records_per_second"])
        assert row["peak_bytes"] == row["compiled_peak_bytes"] > 0
        assert row["utilisation"] is None
    assert main(["compare", str(path), str(path), "--check"]) == 0
    assert "0 of 6 ratios differ" in capsys.readouterr().out


def write(path, ratio=1.0, **changed):
    row = {"step": "private", "time_ratio": ratio, "memory_ratio": 1.0}
    results = {
        "benchmark": "clipping",
        "device": "cpu",
        "num_devices": 1,
        "date": "2026-01-01",
        "options": {},
        "keys": ["step"],
        "ratios": ["time_ratio", "memory_ratio"],
        "rows": [row],
    }
    path.write_text(json.dumps(results | changed))
    return str(path)


def test_compare_finds_a_planted_slowdown(tmp_path, capsys):
    before = write(tmp_path / "before.json")
    after = write(tmp_path / "after.json", ratio=1.2)
    assert main(["compare", before, after]) == 0
    assert main(["compare", before, after, "--check"]) == 1
    shown = capsys.readouterr().out
    assert "+20.0%" in shown
    assert "1 of 2 ratios differ by more than 10%" in shown
    assert main(["compare", before, write(after_path := tmp_path / "same.json", 1.09)]) == 0
    assert main(["compare", before, str(after_path), "--check"]) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"benchmark": "finetune"}, "same benchmark, got clipping and finetune"),
        ({"device": "TPU v5p"}, "same device, got cpu and TPU v5p"),
        ({"num_devices": 4}, "same num_devices, got 1 and 4"),
        ({"rows": []}, "no row in common"),
        ({"ratios": []}, "no ratios to compare"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, capsys, changed, message):
    before, after = write(tmp_path / "a.json"), write(tmp_path / "b.json", **changed)
    assert main(["compare", before, after]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("text", "message"), [("{", "no JSON file"), ("[]", "run it again")])
def test_a_file_of_something_else_is_refused(tmp_path, capsys, text, message):
    path = tmp_path / "other.json"
    path.write_text(text)
    assert main(["compare", str(path), str(path)]) == 2
    assert message in capsys.readouterr().err
    assert Compared(path, path).check is False


def test_runs_take_turns_from_another_start_each():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = time_in_turns(runs, 2)
    assert "".join(calls) == "abc" + "abc" + "bca"
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2, "c": 2}
    assert median_ratio([2.0, 3.0, 9.0], [1.0, 1.0, 1.0]) == 3.0
    assert spread_of([1.0]) == 0.0
    assert spread_of([1.0, 2.0, 3.0]) == 0.5


def test_operations_are_six_for_each_trained_entry_and_four_for_each_frozen_one():
    model, length = "llama-1x32", 16
    full = draw_model(model, tuning="full", rank=2, loading=Loading())
    adapted = draw_model(model, tuning="lora", rank=2, loading=Loading())
    vocab_size = CONFIGS[model]["vocab_size"]
    # Three norms, and the look-up of the embedding, multiply nothing.
    entries = count_parameters(full.trainable) - 3 * 32 - vocab_size * 32
    attention = 12 * length * 32
    assert flops_per_token(model, full, tuning="full", length=length) == 6 * entries + attention
    assert flops_per_token(model, adapted, tuning="lora", length=length) == (
        4 * entries + 6 * count_parameters(adapted.trainable) + attention
    )


def test_adapters_lie_beside_weights_in_the_dtype_of_the_activations():
    options = Finetuned(cases=("gpt2-1x32:lora:16:2",), dtype="bfloat16", microbatches=3)
    case = make_case(options, options.cases[0])
    assert (case.batch_size, case.loading.param_dtype) == (6, "bfloat16")
    assert make_case(options, "gpt2-1x32:full:16:2").loading.param_dtype == "float32"
