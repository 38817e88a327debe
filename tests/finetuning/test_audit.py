"""Canaries inside a run: planted by coins, scored after training, and judged."""

import json
import shutil

import numpy as np
import pytest

import dpjax
from dpjax.audit import (
    open_coins,
    read_audit_report,
    read_canaries,
    read_manifest,
    verify_audit_report,
)
from dpjax.finetuning import FinetuneConfig, set_up
from dpjax.finetuning.setup import canaries
from dpjax.finetuning.training import loop

TEXTS = {"num_canaries": 24, "kind": "random-tokens", "most_share": 0.5}


@pytest.fixture
def audited(language_options):
    """Options of a run without privacy that learns its canaries by heart."""
    changes = {"privacy": {}, "non_private": True, "audit": TEXTS}
    options = language_options("text", **changes)
    options["training"] |= {"num_steps": 60, "expected_batch_size": 100, "max_length": 48}
    return options


@pytest.mark.slow
def test_a_run_without_privacy_is_caught(audited):
    result = dpjax.finetune(**audited)
    folder = audited["output_dir"]
    report = read_audit_report(folder / "audit.json")
    assert verify_audit_report(report) == [] and report == result.audit
    assert result.warnings == ()
    assert report["verdict"]["conclusion"] == "no claim"
    assert report["certified"]["epsilon"] > 0.5
    assert report["attack"]["auc"] > 0.95
    assert set(report["other_scores"]) == {"loss", "min_k", "min_k_plus"}
    memorised = {figure["name"]: figure for figure in report["extraction"]}["exact_memorisation"]
    assert memorised["value"] > 1.5 * memorised["held_out_value"]
    assert report["details"]["manifest_sha256"] == read_manifest(folder).sha256
    assert "<h1>Privacy audit</h1>" in (folder / "audit.html").read_text()
    assert "## Audit" in (folder / "report.md").read_text()
    assert not (folder / "private").exists()


@pytest.mark.slow
def test_half_of_the_canaries_count_in_the_guarantee(options, capsys):
    audit = {"num_canaries": 40, "most_share": 0.3}
    options["privacy"] = {"noise_multiplier": 0.5, "delta": 1e-5}
    result = dpjax.finetune(**options, audit=audit)
    assert "40 canaries, each in training if a fair coin says so" in capsys.readouterr().out
    assert result.privacy["mechanism"]["num_units"] == 260
    assert result.audit["claimed_epsilon"] == result.epsilon
    assert result.audit["mechanism"] == result.privacy["mechanism"]
    assert result.audit["score"] == "loss"
    assert result.audit["details"]["kind"] == "random-labelled"


@pytest.mark.slow
def test_training_draws_what_the_coins_include_and_nothing_else(audited, monkeypatch):
    drawn = set()
    original = loop._batches

    def record(run, steps, step):
        for rows, mask in steps.batches(step, microbatch_size=32, order=lambda rows: rows):
            drawn.update(rows[mask].tolist())
        yield from original(run, steps, step)

    monkeypatch.setattr(loop, "_batches", record)
    result = dpjax.finetune(**audited)
    included = [200 + i for i, row in enumerate(result.audit["canaries"]) if row["included"]]
    assert {row for row in drawn if row >= 200} == set(included)


@pytest.mark.slow
def test_coins_are_sealed_before_training_and_the_same_on_resuming(audited, stop_after, tmp_path):
    whole = dpjax.finetune(**audited)
    options = audited | {"output_dir": tmp_path / "stopped"}
    stop_after(2, **options)
    manifest = read_manifest(options["output_dir"])
    coins = open_coins(options["output_dir"])
    resumed = dpjax.finetune(**options, resume=True)
    assert resumed.audit["canaries"] == whole.audit["canaries"]
    assert resumed.audit["details"]["manifest_sha256"] == manifest.sha256
    assert [row["included"] for row in resumed.audit["canaries"]] == coins.included.tolist()


def test_a_run_without_an_audit_has_nothing_of_it(whole):
    assert whole.audit is None
    assert not (whole.output_dir / "manifest.json").exists()
    assert not (whole.output_dir / "audit.json").exists()


@pytest.mark.slow
def test_a_manifest_that_was_changed_since_is_no_audit(audited, stop_after):
    folder = audited["output_dir"]
    stop_after(2, **audited)
    fields = json.loads((folder / "manifest.json").read_text())
    fields["kind"] = "new-token"
    (folder / "manifest.json").write_text(json.dumps(fields))
    result = dpjax.finetune(**audited, resume=True)
    assert result.audit is None
    assert "the audit failed" in result.warnings[0] and "manifest.json" in result.warnings[0]


def test_mislabelled_records_are_no_longer_held_out(options):
    options["audit"] = {"num_canaries": 40, "kind": "mislabelled", "most_share": 0.3}
    paths = {name: str(options[name]) for name in ("model", "output_dir")}
    run = set_up(FinetuneConfig.from_options(options | paths))
    assert len(run.plan.evaluation) == 40
    assert len(run.audited.slots) == 280
    held_out = {row.tobytes() for row in run.plan.evaluation.input_ids}
    assert not held_out & {row.tobytes() for row in run.audited.encoded.input_ids}
    assert np.array_equal(run.audited.present[240:], run.audited.coins.included)


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        (
            {"num_canaries": 2},
            r"2 canaries are too few to certify anything at ε = 3.99792; \d+ or more",
        ),
        ({"num_canaries": 60}, r"% of the training tokens, more than 1 %; \d+ of this length"),
        ({"num_canaries": -1}, "audit.num_canaries must be at least 0, got -1"),
        (
            {"num_canaries": 40, "kind": "new-token"},
            "must be one of random-labelled, mislabelled",
        ),
        ({"num_canaries": 40, "score": "ratio"}, "audit.score must be one of loss"),
        ({"num_canaries": 40, "confidence": 1.0}, "audit.confidence must be between 0 and 1"),
        ({"num_canaries": 200, "kind": "mislabelled"}, "need as many different texts"),
    ],
)
def test_what_could_show_nothing_is_refused_before_training(options, audit, message):
    with pytest.raises(ValueError, match=message):
        dpjax.finetune(**options, audit=audit)
    assert not options["output_dir"].exists()


@pytest.mark.slow
def test_an_overwritten_run_flips_new_coins(audited, stop_after):
    stop_after(2, **audited)
    first = read_manifest(audited["output_dir"])
    shutil.rmtree(audited["output_dir"] / "model", ignore_errors=True)
    dpjax.finetune(**audited | {"seed": 6}, overwrite=True)
    assert read_manifest(audited["output_dir"]).coins_commitment != first.coins_commitment


@pytest.fixture
def written(language_options, monkeypatch):
    """Options of a run whose canaries the model writes; few tokens of it are many bytes."""
    monkeypatch.setattr(canaries, "_CANARY_TOKENS", 4)
    options = language_options("text", audit=TEXTS | {"kind": "high-temperature"})
    options["training"] |= {"num_steps": 4, "max_length": 32}
    return options


@pytest.mark.slow
def test_the_model_writes_canaries_before_it_is_tuned(written, stop_after, tmp_path, monkeypatch):
    whole = dpjax.finetune(**written)
    assert whole.warnings == () and whole.audit["details"]["kind"] == "high-temperature"
    options = written | {"output_dir": tmp_path / "stopped"}
    stop_after(2, **options)
    sealed = read_canaries(options["output_dir"])
    # The token that ends a text, which this tokenizer has for want of one that opens it.
    assert set(sealed.records.prompts) == {"<|end|>"} and len(set(sealed.secrets)) == 24
    monkeypatch.setattr(canaries, "make_canaries", None)
    resumed = dpjax.finetune(**options, resume=True)
    assert resumed.audit["canaries"] == whole.audit["canaries"]


def test_too_few_canaries_are_refused_before_a_model_writes_them(written, monkeypatch):
    monkeypatch.setattr(canaries, "make_canaries", None)
    with pytest.raises(ValueError, match="3 canaries are too few"):
        dpjax.finetune(**written | {"audit": {"num_canaries": 3, "kind": "high-temperature"}})
