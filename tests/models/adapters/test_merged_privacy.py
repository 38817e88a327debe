"""What is stated of an adapter that was merged from those of private runs."""

import dataclasses
import json

import jax
import pytest
from dpjax_accounting import DPSGD, claim, verify_report

from dpjax.models import LoraConfig, add_lora, merge_adapters, save_adapter
from tests.support.privacy_reports import make_report
from tests.support.tiny_checkpoints import random_model

# So much noise that it is accounted for in no time.
RUN = DPSGD(num_units=1000, expected_batch_size=100, noise_multiplier=8.0, num_steps=40)


def report_of(mechanism, run_id, delta):
    """A report that verifies."""
    report = make_report(claim(mechanism, delta, steps_completed=40))
    report["run"]["id"] = run_id
    return report


@pytest.fixture(scope="module")
def reports():
    return {name: report_of(RUN, name, delta) for name, delta in (("a", 1e-5), ("b", 2e-6))}


@pytest.fixture
def write(tmp_path):
    """Writes an adapter, with a report in the folder above or in its own."""

    def make(run, report=None, *, above=True, name="adapter"):
        model = random_model("llama", "causal_lm")
        add_lora(model, LoraConfig(rank=2, target_modules=("q_proj",)), key=jax.random.key(0))
        folder = tmp_path / run / name
        save_adapter(model, folder, base="some/base")
        if report is not None:
            place = folder.parent if above else folder
            (place / "privacy.json").write_text(json.dumps(report))
        return folder

    return make


def merged(folders, out):
    """The statement that is written, which is also what is returned."""
    said = merge_adapters(folders, [1.0] * len(folders), out, combination="cat")
    statement = json.loads((out / "privacy_of_merge.json").read_text())
    assert statement["statements"] == list(said)
    return statement, " ".join(said)


def test_two_runs_add_up(write, reports, tmp_path):
    folders = [write("a", reports["a"]), write("b", reports["b"], above=False)]
    statement, said = merged(folders, tmp_path / "m")
    epsilons = [reports[name]["guarantee"]["epsilon"] for name in "ab"]
    total = statement["total"]
    assert total["epsilon"] == pytest.approx(sum(epsilons), rel=1e-12)
    assert total["delta"] == pytest.approx(1.2e-5, rel=1e-12)
    assert (total["unit"], total["neighboring"]) == ("record", "add_or_remove_one")
    assert f"Run a: ε = {epsilons[0]:.4g}, δ = 1e-05 per record, add or remove one." in said
    assert "the ε of these runs add up, and so do the δ (basic composition)" in said
    assert f"A record in all of them has ε = {sum(epsilons):.4g}, δ = 1.2e-05." in said
    assert "weights and combination were chosen without looking at private records" in said
    assert statement["reports"] == [reports["a"], reports["b"]] and not statement["unknown"]
    assert all(verify_report(report) == [] for report in statement["reports"])


def test_adapters_of_one_run_are_one_release(write, reports, tmp_path):
    folder = write("a", reports["a"])
    statement, said = merged([folder, folder], tmp_path / "m")
    assert statement["total"]["epsilon"] == reports["a"]["guarantee"]["epsilon"]
    assert "add up" not in said


def test_nothing_is_known_without_a_report(write, reports, tmp_path):
    statement, said = merged([write("a", reports["a"]), write("b")], tmp_path / "m")
    assert statement["total"] is None
    assert statement["unknown"] == [f"{tmp_path / 'b' / 'adapter'}, which has no privacy report"]
    assert "has no privacy report: whoever was in its training data has no guarantee." in said


def test_a_run_without_privacy_has_no_guarantee(write, reports, tmp_path):
    plain = reports["b"] | {"private": False, "guarantee": None}
    statement, said = merged([write("a", reports["a"]), write("b", plain)], tmp_path / "m")
    assert statement["total"] is None and len(statement["reports"]) == 1
    assert "trained without privacy: whoever was in its training data has no guarantee." in said


def test_a_report_above_belongs_to_the_adapter_of_the_run_alone(write, reports, tmp_path):
    write("a", reports["a"])
    foreign = write("a", name="other")
    assert merge_adapters([foreign], [1.0], tmp_path / "m") == ()
    assert not (tmp_path / "m" / "privacy_of_merge.json").exists()


def test_what_was_merged_is_merged_again_with_all_its_runs(write, reports, tmp_path):
    merged([write("a", reports["a"]), write("c")], tmp_path / "first")
    statement, _ = merged([tmp_path / "first", write("b", reports["b"])], tmp_path / "second")
    assert [report["run"]["id"] for report in statement["reports"]] == ["a", "b"]
    assert statement["total"] is None and len(statement["unknown"]) == 1


def test_other_neighbours_have_no_sum(write, reports, tmp_path):
    other = report_of(dataclasses.replace(RUN, neighboring="zero_out"), "other", 1e-5)
    statement, said = merged([write("a", reports["a"]), write("o", other)], tmp_path / "m")
    assert statement["total"] is None
    assert "No sum is stated: the runs do not protect the same unit" in said


def test_warnings_of_a_run_are_said(write, reports, tmp_path):
    seeded = json.loads(json.dumps(reports["a"]))
    seeded["warnings"] = ["The seed is fixed."]
    _, said = merged([write("a", seeded)], tmp_path / "m")
    assert "Run a: The seed is fixed." in said


@pytest.mark.parametrize("above", [True, False])
def test_a_claim_that_does_not_hold_is_refused(write, reports, tmp_path, above):
    spoilt = json.loads(json.dumps(reports["a"]))
    spoilt["guarantee"]["epsilon"] /= 2
    folder = write("a", spoilt, above=above)
    with pytest.raises(ValueError, match=r"privacy\.json does not hold: epsilon=.* too low"):
        merge_adapters([folder], [1.0], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_statement_that_was_changed_is_refused(write, reports, tmp_path):
    statement, _ = merged([write("a", reports["a"])], tmp_path / "first")
    path = tmp_path / "first" / "privacy_of_merge.json"
    statement["reports"][0]["guarantee"]["epsilon"] /= 2
    path.write_text(json.dumps(statement))
    with pytest.raises(ValueError, match="does not hold: epsilon="):
        merge_adapters([tmp_path / "first"], [1.0], tmp_path / "m")
    path.write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        merge_adapters([tmp_path / "first"], [1.0], tmp_path / "m")
    path.write_text(json.dumps(statement | {"schema_version": 9}))
    with pytest.raises(ValueError, match="must have schema_version 1, got 9"):
        merge_adapters([tmp_path / "first"], [1.0], tmp_path / "m")
