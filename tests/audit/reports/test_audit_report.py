"""audit.json: what it says, and that verification computes it again."""

import json

import numpy as np
import pytest
from dpjax_accounting import FullBatch

from dpjax.audit import (
    CanaryScores,
    ExtractionFigure,
    audit_markdown,
    audit_page,
    build_audit_report,
    comparison_markdown,
    comparison_page,
    read_audit_report,
    verify_audit_report,
)

MECHANISM = FullBatch(noise_multiplier=1 / 0.924931, num_steps=1)
NUM = 400


def make_canaries(shift=0.92, **changes):
    rng = np.random.default_rng(0)
    included = rng.random(NUM) < 0.5
    fields = {
        "ids": [f"canary-{i}" for i in range(NUM)],
        "included": included,
        "scores": rng.normal(size=NUM) + shift * included,
        "score": "ratio",
    }
    return CanaryScores(**fields | changes)


@pytest.fixture(scope="module")
def report():
    canaries = make_canaries()
    canaries.scores[3] = np.inf
    built = build_audit_report(
        canaries,
        delta=1e-5,
        claimed_epsilon=4.0,
        mechanism=MECHANISM,
        other_scores={"loss": np.arange(NUM) * 1.0},
        extraction=[
            ExtractionFigure(
                name="exact_memorisation",
                unit="share of tokens",
                values=np.array([0.75]),
                held_out_values=np.array([0.5]),
            )
        ],
        notes=["The coins come from a seed."],
        details={"kind_of_canaries": "new-token"},
    )
    return json.loads(json.dumps(built, allow_nan=False))


def test_it_is_strict_json_and_verifies(report, tmp_path):
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(report))
    assert verify_audit_report(read_audit_report(path)) == []
    assert report["canaries"][3]["score"] == "inf"
    assert 0 < report["certified"]["epsilon"] < report["model_based"]["epsilon"] < 4
    assert report["power"]["num_canaries"] == NUM


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r: r["certified"].update(epsilon=0.5), "certified.epsilon is 0.5"),
        (lambda r: r["verdict"].update(conclusion="violation"), "verdict.conclusion"),
        (lambda r: r.update(claimed_epsilon=1.0), "must be the mechanism's, which is 4"),
        (lambda r: r["canaries"][0].update(score="nan"), "cannot be computed again"),
        (lambda r: r["canaries"][0].update(id="canary-1"), "canary ids must be unique"),
        (lambda r: r["canaries"][0].pop("included"), "cannot be computed again"),
        (lambda r: r["mechanism"].update(noise_multiplier=-1.0), "cannot be computed again"),
        (lambda r: r["notes"].clear(), "the hash does not fit"),
    ],
)
def test_what_was_changed_is_found(report, change, problem):
    changed = json.loads(json.dumps(report))
    change(changed)
    problems = verify_audit_report(changed)
    assert problems[0] == "the hash does not fit the content: the file was changed"
    assert any(problem in line for line in problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a JSON file"),
        ("[]", "is not an audit report"),
        ('{"schema": {"name": "dpjax-audit", "version": 99}}', "its schema is"),
        ('{"schema": {"name": "dpjax-audit", "version": 1}}', "lacks score"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "audit.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_audit_report(path)


def test_words_and_page_say_what_was_found(report):
    text = audit_markdown(report)
    for part in (report["verdict"]["sentence"], "certified", "model-based", "descriptive"):
        assert part in text
    assert "The coins come from a seed." in text and "new-token" in text
    assert "| exact memorisation | 0.75 | 0.5 | share of tokens | descriptive |" in text
    page = audit_page(report)
    assert page.count("data:image/png;base64,") == 2 and "<script" not in page


def test_a_violation_stands_out():
    canaries = make_canaries(shift=6.0)
    report = build_audit_report(canaries, delta=1e-5, claimed_epsilon=1.0)
    assert report["verdict"]["conclusion"] == "violation"
    assert "> **Warning.**" in audit_markdown(report)


def test_without_a_claim_there_is_a_bound_and_no_power():
    report = build_audit_report(make_canaries(6.0), delta=1e-5, claimed_epsilon=None)
    assert report["verdict"]["conclusion"] == "no claim" and report["power"] is None
    assert report["certified"]["epsilon"] > 1
    assert verify_audit_report(report) == [] and "No privacy is claimed" in audit_page(report)


def test_ids_scores_and_coins_are_as_many():
    with pytest.raises(ValueError, match="every canary needs a coin and a score"):
        make_canaries(scores=np.zeros(3))


def test_audits_side_by_side_have_a_column_each(report):
    other = build_audit_report(make_canaries(6.0), delta=1e-5, claimed_epsilon=None)
    text = comparison_markdown({"private": report, "not private": other})
    assert "|  | private | not private |" in text and "| claimed ε | 4 | none |" in text
    assert "| exact memorisation | 0.75, 0.5 |  |" in text
    assert f"private: {report['verdict']['sentence']}" in text
    page = comparison_page({"private": report, "not private": other})
    assert page.count("data:image/png;base64,") == 3
    with pytest.raises(ValueError, match="at least one audit"):
        comparison_page({})
