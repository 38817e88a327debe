"""Audits of `fit` with a folder: sealed before training, the same later, written at the end."""

import json

import jax.numpy as jnp
import pytest

import dpjax
from dpjax import audit
from dpjax.audit import (
    flip_coins,
    number_ids,
    open_coins,
    read_audit_report,
    read_manifest,
    verify_audit_report,
)
from tests.training.fitting.auditing.audited_fit import CANARIES, KEY, QUIET, canaries, options


def fit(folder, **changes):
    return dpjax.fit(**options(output_dir=folder, **changes))


def leave_after_one_step(folder):
    run = fit(folder, run_key=None)
    for _done in run:
        break
    return run


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_coins_are_sealed_before_training_and_the_same_on_resuming(tmp_path):
    folder = tmp_path / "run"
    left = leave_after_one_step(folder)
    manifest, coins = read_manifest(folder), open_coins(folder)
    assert manifest.kind == "given" and not manifest.fixed_seed
    expected = flip_coins(number_ids("canary", CANARIES), run_key=left.run_key)
    assert coins.included.tolist() == expected.included.tolist()
    assert "audit.json" not in names(folder)
    result = fit(folder, run_key=None, resume=True).run(QUIET)
    report = read_audit_report(folder / "audit.json")
    assert report == result.audit and verify_audit_report(report) == []
    without_a_folder = dpjax.fit(**options(run_key=left.run_key)).run(QUIET)
    assert report == without_a_folder.audit
    assert [row["included"] for row in report["canaries"]] == coins.included.tolist()
    assert report["details"]["manifest_sha256"] == manifest.sha256
    assert report["verdict"]["conclusion"] != "violation"
    assert "<h1>Privacy audit</h1>" in (folder / "audit.html").read_text()
    privacy = json.loads((folder / "privacy.json").read_text())
    assert any("all coins are known" in line for line in privacy["assumptions"])
    assert "private" not in names(folder)


def test_what_is_audited_must_be_the_same(tmp_path):
    folder = tmp_path / "run"
    leave_after_one_step(folder)
    others = (
        (dpjax.FitAudit(canaries=canaries() + 1), "data is not what it was"),
        (dpjax.FitAudit(canaries=canaries(), confidence=0.9), "audit confidence was 0.95, now it"),
        (
            dpjax.FitAudit(canaries=canaries(), score=lambda params, x: jnp.vdot(params, x)),
            "audit score was None",
        ),
    )
    for other, words in others:
        with pytest.raises(ValueError, match=words):
            fit(folder, run_key=None, resume=True, audit=other)


def test_a_manifest_that_was_changed_since_is_no_audit(tmp_path):
    folder = tmp_path / "run"
    run = fit(folder)
    with pytest.warns(RuntimeWarning, match="the audit failed: ValueError: .*manifest.json"):
        for done in run:
            if done.step == 1:
                fields = json.loads((folder / "manifest.json").read_text())
                (folder / "manifest.json").write_text(json.dumps(fields | {"kind": "other"}))
    assert run.result().audit is None and "audit.json" not in names(folder)
    assert "params.safetensors" in names(folder)


def test_a_crash_while_reports_are_written_loses_no_audit(tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(audit, "audit_page", killed)
        with pytest.raises(dpjax.RunInterrupted):
            fit(folder).run(QUIET)
    first = read_audit_report(folder / "audit.json")
    assert fit(folder, run_key=None, resume=True).run(QUIET).audit == first
    assert "audit.html" in names(folder)


def test_a_run_that_was_stopped_before_its_key_was_written_is_started(tmp_path):
    folder = tmp_path / "run"
    leave_after_one_step(folder)
    (folder / "private" / "run_key.json").unlink()
    for name in ("privacy.json", "metrics.jsonl"):
        (folder / name).unlink()
    before = read_manifest(folder)
    result = fit(folder, run_key=KEY, resume=True).run(QUIET)
    assert result.audit["details"]["manifest_sha256"] == read_manifest(folder).sha256
    assert read_manifest(folder) != before
