"""Reports that hold, and every way in which one does not."""

import dataclasses
import json
import subprocess
import sys
import warnings

import pytest
from dpjax_accounting import (
    DPSGD,
    DatasetIdentity,
    DeltaWarning,
    DPSGDSchedule,
    Ledger,
    ShuffledDPSGD,
    claim,
    dataset_total,
    read_report,
    verify_report,
)
from dpjax_accounting.cli import main
from dpjax_accounting.report.caveats import remarks

from tests.support.mechanisms import banded, segment

MECHANISM = DPSGD(num_units=1000, expected_batch_size=100, noise_multiplier=8.0, num_steps=40)


def changed(report, path, value):
    """The report with the value at a dotted path exchanged; a callable gets the old one."""
    *parents, last = path.split(".")
    place = report
    for name in parents:
        place = place[name]
    place[last] = value(place[last]) if callable(value) else value
    return report


def said(report, ledger=None):
    return " ".join(verify_report(report, ledger))


def test_a_whole_and_an_unfinished_report_hold(report, unfinished):
    assert verify_report(report) == [] == verify_report(json.loads(json.dumps(report)))
    assert report["guarantee"]["epsilon"] == MECHANISM.epsilon(1e-5)
    assert verify_report(unfinished) == []
    assert unfinished["guarantee"]["epsilon"] == MECHANISM.after(20).epsilon(1e-5)
    assert remarks(report) == []
    assert "covers 20 of 40 steps" in remarks(unfinished)[0]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("guarantee.epsilon", lambda old: 0.9 * old, ["too low", "epsilon="]),
        ("guarantee.epsilon", lambda old: 0.998 * old, ["too low"]),
        ("guarantee.epsilon", lambda old: 1.1 * old, ["too high"]),
        ("guarantee.epsilon", 0, ["too low"]),
        ("guarantee.delta", 1e-6, ["too low"]),
        ("guarantee.unit", "user", ["guarantee.unit", "'record'"]),
        ("guarantee.neighboring", "replace_one", ["guarantee.neighboring"]),
        ("guarantee.num_units", 2000, ["guarantee.num_units"]),
        ("guarantee.delta_times_num_units", 0.5, ["delta_times_num_units"]),
        ("guarantee.epsilon_unamplified", None, ["epsilon_unamplified"]),
        ("guarantee.epsilon_planned", 0.1, ["epsilon_planned"]),
        ("guarantee.largest_advantage", 0.01, ["largest_advantage"]),
        ("guarantee.other_deltas", lambda old: [old[0] | {"epsilon": 0.1}], ["other_deltas[0]"]),
        ("guarantee.tests", [], ["guarantee.tests"]),
        ("mechanism.noise_multiplier", 9.0, ["too high", "noise_standard_deviation"]),
        ("mechanism.noise_multiplier", 7.0, ["too low"]),
        ("mechanism.num_steps", 80, ["unfinished", "steps_planned"]),
        ("mechanism.num_steps", 30, ["cannot be recomputed", "step=40 lies beyond"]),
        ("mechanism.sampling", "poison", ["Did you mean 'poisson'"]),
        ("mechanism.noise_multiplier", 0, ["cannot be recomputed", "noise_multiplier"]),
        ("mechanism.noise_multiplier", 10**400, ["cannot be recomputed"]),
        ("mechanism.mechanism", "dpsdg", ["Did you mean 'dpsgd'"]),
        ("steps_completed", 20, ["too high", "status"]),
        ("status", "unfinished", ["status is 'unfinished'"]),
        ("implementation.noise_standard_deviation", 0.5, ["noise_standard_deviation"]),
        ("implementation.clip_norm", 1.0, ["noise_standard_deviation"]),
        ("guarantee", None, ["guarantee is missing"]),
        ("private", False, ["not private", "no claim"]),
    ],
)
def test_what_was_changed_by_hand_is_found(report, path, value, words):
    sentence = said(changed(report, path, value))
    for word in words:
        assert word in sentence


def test_an_unfinished_run_cannot_claim_to_be_whole(unfinished):
    assert "status is 'complete'" in said(changed(unfinished, "status", "complete"))
    unfinished["status"] = "unfinished"
    assert "too high" not in said(unfinished)
    whole = unfinished["guarantee"]["epsilon_planned"]
    assert "after 20 steps" in said(changed(unfinished, "guarantee.epsilon", whole))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: r["guarantee"].pop("delta"), "guarantee.delta is missing"),
        (lambda r: r.pop("assumptions"), "assumptions is missing"),
        (lambda r: r["guarantee"].update(epsilom=1), "guarantee.epsilom is unknown. Did you mean"),
        (lambda r: r.update(guarantees={}), "guarantees is unknown. Did you mean 'guarantee'"),
        (lambda r: r["mechanism"].update(noise=1), "DPSGD has no field 'noise'"),
        (lambda r: r.update(schema_version=4), "schema_version must be 5; got 4"),
        (lambda r: r["guarantee"].update(delta=1.0), "guarantee.delta must be less than 1"),
        (lambda r: r["guarantee"].update(delta=0), "guarantee.delta must be greater than 0"),
        (lambda r: r["guarantee"].update(epsilon=-1), "guarantee.epsilon must be at least 0"),
        (lambda r: r["guarantee"].update(epsilon="1"), "guarantee.epsilon must be number; got '1'"),
        (lambda r: r["guarantee"].update(epsilon=True), "guarantee.epsilon must be number"),
        (lambda r: r["guarantee"].update(epsilon=float("nan")), "epsilon must be at least 0"),
        (lambda r: r.update(status="done"), "status must be one of 'complete', 'unfinished'"),
        (
            lambda r: r["implementation"].update(clip_norm=[], noise_standard_deviation=[]),
            "implementation.clip_norm must not be empty",
        ),
        (lambda r: r["warnings"].append(""), "warnings[0] must not be empty"),
        (lambda r: r["data_uses"][0].update(status="fine"), "data_uses[0].status must be one of"),
        (lambda r: r["versions"].update(dpjax=1), "versions.dpjax must be string"),
        (lambda r: r.pop("environment"), "environment is missing"),
        (lambda r: r["environment"].update(devices=""), "environment.devices"),
    ],
)
def test_what_does_not_fit_the_schema_is_named(report, spoil, words):
    spoil(report)
    assert words in said(report)


@pytest.mark.parametrize("value", [None, [], "report", 3])
def test_other_json_is_no_report(value):
    assert "the report must be object" in said(value)


def test_limits_of_a_report_are_said(report):
    report["randomness"] |= {"seed_fixed": True, "run_key_bits": None}
    assert "seed was fixed" in remarks(report)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeltaWarning)
        report |= claim(MECHANISM, 0.01)
    assert verify_report(report) == []
    assert "permits revealing" in remarks(report)[1]


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger", DatasetIdentity.of([b"x"] * 1000))
    ledger.charge("a1", MECHANISM, key="key 1")
    ledger.settle("a1", 40)
    ledger.charge("b2", dataclasses.replace(MECHANISM, num_steps=10), key="key 2")
    return ledger


def test_the_total_of_the_data_set_is_recomputed(report, ledger):
    report["dataset_total"] = dataset_total(ledger, 1e-5)
    assert verify_report(report, ledger) == []
    total = dataclasses.replace(MECHANISM, num_steps=50).epsilon(1e-5)
    assert report["dataset_total"]["epsilon"] == pytest.approx(total, rel=1e-4)
    ledger.settle("b2", 5)
    assert verify_report(report, ledger) == []
    report["dataset_total"]["epsilon"] *= 0.9
    assert "dataset_total.epsilon" in said(report)
    report["dataset_total"] |= {"mechanism": None, "epsilon": 0.0}
    assert "the run is not in it" in said(report)


def test_the_ledger_must_know_the_run(report, ledger, tmp_path):
    report["dataset_total"] = dataset_total(ledger, 1e-5)
    report["dataset_total"]["ledger_head"]["sha256"] = "0" * 64
    assert "never was in the state" in said(report, ledger)
    report["run"]["id"] = "c3"
    assert "no run 'c3'" in said(report, ledger)
    report["run"]["id"] = "b2"
    assert "another mechanism" in said(report, ledger)


def test_the_noise_of_every_segment_of_a_schedule_must_be_there(report):
    segments = (segment(100, 8.0, 20), segment(50, 6.0, 10))
    schedule = DPSGDSchedule(num_units=1000, segments=segments)
    report |= claim(schedule, 1e-5, steps_completed=25)
    report["implementation"]["noise_standard_deviation"] = [4.0, 3.0]
    assert verify_report(report) == []
    for wrong in (4.0, [4.0], [4.0, 3.1], [3.0, 4.0], [4.0, 0.0]):
        report["implementation"]["noise_standard_deviation"] = wrong
        assert "noise_standard_deviation" in said(report)


def test_a_clip_norm_that_changes_has_a_number_for_each_part(report):
    segments = (segment(100, 8.0, 20), segment(50, 6.0, 10))
    schedule = DPSGDSchedule(num_units=1000, segments=segments)
    report |= claim(schedule, 1e-5, steps_completed=25)
    report["implementation"] |= {
        "clip_norm": [0.5, 2.0],
        "noise_standard_deviation": [4.0, 12.0],
    }
    assert verify_report(report) == []
    report["implementation"]["noise_standard_deviation"] = [4.0, 3.0]
    assert "noise_standard_deviation" in said(report)
    report["implementation"]["clip_norm"] = [0.5]
    assert "clip_norm has 1 numbers for 2 segments" in said(report)


def test_a_clip_norm_that_changes_where_steps_are_of_one_kind(report):
    norms = {"clip_norm": [0.5, 2.0], "noise_standard_deviation": [4.0, 16.0]}
    report["implementation"] |= norms
    assert verify_report(report) == []
    for wrong in ([4.0, 4.0], [4.0], 4.0):
        report["implementation"]["noise_standard_deviation"] = wrong
        assert "noise_standard_deviation" in said(report)


def test_noise_is_correlated_as_the_mechanism_says(report):
    correlation = {"sentence": "", "coefs": [1.0, 0.5], "buf_decay": None, "output_scale": None}
    report["implementation"]["noise_correlation"] = correlation
    assert "must be null: noise is independent" in said(report)
    mechanism = banded(1000, 10, 8.0, 40, bands=2, column_norm=1.0)
    report |= claim(mechanism, 1e-5)
    assert verify_report(report) == []
    correlation["coefs"] = [1.0, 0.5, 0.25]
    assert "has 3 bands, but the mechanism 2" in said(report)
    correlation |= {"coefs": None, "buf_decay": [0.5], "output_scale": [0.1]}
    assert "has 40 bands, but the mechanism 2" in said(report)
    report["implementation"]["noise_correlation"] = None
    assert "must say how noise is correlated" in said(report)


def test_of_epochs_those_are_claimed_that_were_begun(report):
    epochs = ShuffledDPSGD(noise_multiplier=8.0, num_epochs=3, num_units=1000, batch_size=300)
    report |= claim(epochs, 1e-5, steps_completed=5)
    assert verify_report(report) == []
    assert (
        report["guarantee"]["epsilon"]
        == claim(epochs, 1e-5, steps_completed=8)["guarantee"]["epsilon"]
    )
    # One step less was the end of an epoch: that would be too low.
    report |= {"guarantee": claim(epochs, 1e-5, steps_completed=4)["guarantee"]}
    assert "the claim is too low" in said(report)


def test_a_report_with_changed_parameters_and_epsilon_needs_the_ledger(report, ledger):
    report |= claim(dataclasses.replace(MECHANISM, noise_multiplier=16.0), 1e-5)
    report["implementation"]["noise_standard_deviation"] = 8.0
    assert verify_report(report) == []
    assert "another mechanism" in said(report, ledger)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1', "Expecting"),
        ("", "Expecting"),
        ('{"guarantee": {"epsilon": 1, "epsilon": 2}}', "epsilon appears twice"),
        ('{"epsilon": NaN}', "NaN is no number"),
        ("[" * 100_000, "does not hold a privacy report"),
    ],
)
def test_files_that_hold_no_json_are_refused(tmp_path, text, message):
    path = tmp_path / "privacy.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_report(path)
    assert main(["verify", str(path)]) == 1


def test_verify_command(report, unfinished, ledger, tmp_path, capsys):
    path = tmp_path / "privacy.json"
    path.write_text(json.dumps(report))
    assert main(["verify", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"OK: epsilon={MECHANISM.epsilon(1e-5):.6g} at")
    assert "shares no code with this accountant, agrees: epsilon=" in said
    assert main(["verify", str(path), "--ledger", str(ledger.path)]) == 0
    path.write_text(json.dumps(unfinished))
    assert main(["verify", str(path)]) == 0
    assert "Note: The run is unfinished" in capsys.readouterr().out
    path.write_text(json.dumps(changed(report, "guarantee.epsilon", 0.1)))
    assert main(["verify", str(path)]) == 1
    assert "the claim is too low" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "nothing")]) == 2
    assert main(["verify", str(path), "--ledger", str(tmp_path / "nothing")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_module_is_a_command_and_needs_no_jax(report, tmp_path):
    path = tmp_path / "privacy.json"
    path.write_text(json.dumps(report))
    code = (
        "import sys, runpy\ntry:\n    runpy.run_module('dpjax_accounting', run_name='__main__')\n"
    )
    code += "finally:\n    assert 'jax' not in sys.modules"
    command = [sys.executable, "-c", code, "verify", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout[:3]) == (0, "OK:"), done.stderr


def test_ledger_commands(ledger, tmp_path, capsys):
    assert main(["ledger", "show", str(ledger.path)]) == 0
    shown = capsys.readouterr().out
    assert "a1  40 steps" in shown and "b2  in full, not settled" in shown
    assert main(["ledger", "total", str(ledger.path), "--delta", "1e-5"]) == 0
    assert f"epsilon={ledger.epsilon(1e-5):.6g}" in capsys.readouterr().out
    merged = tmp_path / "merged"
    assert main(["ledger", "merge", *[str(ledger.path)] * 2, "--output", str(merged)]) == 0
    assert Ledger(merged).entries() == ledger.entries()
    ledger.path.write_bytes(ledger.path.read_bytes()[:-20])
    assert main(["ledger", "total", str(ledger.path), "--delta", "1e-5"]) == 2
    assert "truncated" in capsys.readouterr().err
