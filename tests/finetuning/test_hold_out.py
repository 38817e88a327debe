"""Training records left out by coins: what is trained on, what is claimed, what is reported."""

import json

import numpy as np
import pytest
from dpjax_accounting import DeltaWarning, verify_report

import dpjax
from dpjax.audit import hold_out, number_ids, open_coins, read_manifest, verify_audit_report
from dpjax.finetuning import FinetuneConfig, set_up
from dpjax.finetuning.auditing import run_audit
from dpjax.finetuning.reports import privacy_report
from dpjax.finetuning.reports.headline import headline
from dpjax.finetuning.setup.audited_records import AuditedRecords
from dpjax.finetuning.setup.optimizer import make_optimizer
from dpjax.finetuning.training import loop
from dpjax.privatize import RunKey
from tests.support.language_records import random_records
from tests.support.runs import weights

HELD_OUT = {"hold_out": 0.5}
LEAKY = {"audit": HELD_OUT, "privacy": {"noise_multiplier": 0.5, "delta": 1e-5, "clip_norm": 0.5}}


@pytest.fixture(scope="module")
def half(cheap_options, tmp_path_factory):
    """The result of a run without privacy on half of its records, which is the quicker to judge."""
    changes = {"audit": HELD_OUT, "privacy": {}, "non_private": True}
    folder = tmp_path_factory.mktemp("half") / "run"
    return dpjax.finetune(**cheap_options | changes, output_dir=folder)


def ready(options):
    """The options, set up."""
    paths = {name: str(options[name]) for name in ("model", "output_dir")}
    return set_up(FinetuneConfig.from_options(options | paths))


def test_half_of_the_records_count_in_the_guarantee(options):
    run = ready(options | LEAKY)
    report = privacy_report.build(run.plan, run.run_key, run.run_id, 6)
    assert verify_report(report) == []
    mechanism = report["mechanism"]
    assert (mechanism["num_units"], mechanism["expected_batch_size"]) == (120, 40)
    assert any("even if all coins are known" in line for line in report["assumptions"])
    assert any("audit.json" in use["explanation"] for use in report["data_uses"])
    assert any("audit.json" in line for line in report["trust"]["kept_secret"])
    assert "each training record is left out if a fair coin says so" in headline(
        run.plan, run.run_key, "all", ()
    )


def test_the_report_is_of_records_and_says_how_many_were_left_out(half):
    report = half.audit
    assert verify_audit_report(report) == []
    assert (report["audited"], report["details"]["kind"]) == ("records", "held-out records")
    included = [row["included"] for row in report["canaries"]]
    assert half.num_left_out == report["details"]["left_out"] == included.count(False)
    assert len(included) == 240 and 80 < half.num_left_out < 160
    assert half.attack.num_members == 240 - half.num_left_out
    assert 0 < report["details"]["auc_without_a_model"] < 1
    assert report["details"]["left_out_with_a_copy_in_training"] >= 0
    assert "do not publish" in report["notes"][0]
    page = (half.output_dir / "audit.html").read_text()
    assert f"240 records, {included.count(True)} of them in training" in page
    assert (
        f"{half.num_left_out} of them left out by coins"
        in (half.output_dir / "report.md").read_text()
    )


def test_nothing_that_is_written_quotes_a_record(half, train_file):
    texts = [line.split(",")[0] for line in train_file.read_text().splitlines()[1:]]
    long = [text for text in texts if text.count(" ") > 4]
    for name in ("audit.json", "audit.html", "manifest.json", "report.md", "privacy.json"):
        written = (half.output_dir / name).read_text()
        assert not any(text in written for text in long), name
    assert read_manifest(half.output_dir).ids[:2] == ("record-0001", "record-0002")


def test_training_draws_each_record_that_is_in_and_no_other(options):
    options["training"] |= {"num_steps": 60}
    run = ready(options | LEAKY)
    included = set(np.flatnonzero(run.audited.coins.included).tolist())
    drawn, counts = set(), []
    steps = loop._make_steps(run, make_optimizer(run.plan.config.training, 60, ()))
    for step in range(run.plan.num_steps):
        for rows, mask in steps.batches(step, microbatch_size=16, order=lambda rows: rows):
            drawn.update(rows[mask].tolist())
            counts.append(mask.sum())
    assert drawn == included
    # With the probability that the accountant knows, which is twice that of all records.
    expected = run.plan.num_steps * len(included) * 40 / 120
    assert abs(sum(counts) - expected) < 4 * expected**0.5
    assert len(run.trained_records) == len(drawn)
    assert len(run.audited.slots) == 240


def test_coins_tell_nothing_to_the_mechanism(options):
    """The number of units is the same however the coins fall, and the coins are of the key."""
    runs = [ready(options | {"audit": HELD_OUT, "seed": seed}) for seed in (1, 2, 1)]
    first, second, again = (run.audited.coins.included for run in runs)
    assert (first != second).any() and (first == again).all()
    assert runs[0].plan.mechanism == runs[1].plan.mechanism


@pytest.mark.slow
def test_a_resumed_run_leaves_the_same_records_out(cheap_options, stop_after, tmp_path):
    whole = dpjax.finetune(**cheap_options | LEAKY, output_dir=tmp_path / "whole")
    assert whole.audit["claimed_epsilon"] == whole.epsilon
    assert whole.audit["mechanism"] == whole.privacy["mechanism"]
    options = cheap_options | LEAKY | {"output_dir": tmp_path / "stopped"}
    stop_after(2, **options)
    coins = open_coins(options["output_dir"])
    resumed = dpjax.finetune(**options, resume=True)
    assert resumed.audit == whole.audit
    assert [row["included"] for row in resumed.audit["canaries"]] == coins.included.tolist()
    assert weights(resumed.output_dir) == weights(whole.output_dir)


@pytest.mark.slow
def test_a_run_without_privacy_on_records_by_heart_is_caught(language_options, tmp_path):
    options = language_options("text", privacy={}, non_private=True, audit=HELD_OUT)
    words = np.random.default_rng(0).integers(0, 10**6, (120, 3))
    lines = [json.dumps({"text": " ".join(map(str, row))}) for row in words.tolist()]
    options["train_data"].write_text("\n".join(lines))
    options["training"] |= {"num_steps": 180, "expected_batch_size": 60, "max_length": 48}
    result = dpjax.finetune(**options)
    assert result.warnings == ()
    assert result.audit["certified"]["epsilon"] > 0.5
    assert result.audit["attack"]["auc"] > 0.95
    assert set(result.audit["other_scores"]) == {"loss", "min_k", "min_k_plus"}
    assert result.audit["details"]["p_value_without_a_model"] > 0.01


def test_records_without_a_token_to_learn_get_the_median(monkeypatch):
    records = random_records([4, 5, 1, 6])
    coins = hold_out(number_ids("record", 4), run_key=RunKey.from_seed(1)).coins
    audited = AuditedRecords("held-out records", coins, None, records, records, None, None)
    found = {"loss": np.array([3.0, -1.0, 2.0])}, ()
    monkeypatch.setattr(run_audit, "_scores_of", lambda *_: found)
    scores, _ = run_audit._scores(None, audited, None, "loss")
    assert scores["loss"].tolist() == [3.0, -1.0, 2.0, 2.0]


def test_tags_can_be_audited_though_they_have_no_canaries(options, tmp_path):
    record = {"tokens": ["good", "the"], "tags": ["praise", "none"]}
    for name in ("train_data", "eval_data"):
        options[name] = tmp_path / f"{name}.jsonl"
        options[name].write_text(f"{json.dumps(record)}\n" * 100)
    run = ready(options | {"task": "token_classification", "audit": HELD_OUT})
    assert run.plan.num_units == 50 and run.audited.canaries is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audit": {"hold_out": 0.3}}, "audit.hold_out must be 0 or 0.5, got 0.3"),
        ({"audit": {"hold_out": 0.5, "num_canaries": 40}}, "are two audits: give one of them"),
        ({"audit": {"hold_out": 0.5, "kind": "mislabelled"}}, "audit.kind is about canaries"),
        ({"audit": {"hold_out": 0.5, "score": "ratio"}}, "audit.score must be one of loss"),
        (
            {"training": {"expected_batch_size": 121, "max_length": 16}},
            "120 .* audit.hold_out keeps on average",
        ),
        ({"privacy": {"target_epsilon": 1.0, "ledger": "l"}}, "give no ledger, or no audit"),
        (
            {"privacy": {"noise_multiplier": 9.0}},
            r"240 records are too few .* ε = 0.\d+;",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(options, changes, message):
    with pytest.raises(ValueError, match=message):
        dpjax.finetune(**options | {"audit": HELD_OUT} | changes)
    assert not options["output_dir"].exists()


def test_delta_protects_the_records_that_are_left_out_too(options):
    options |= {"audit": HELD_OUT, "privacy": {"noise_multiplier": 0.5, "delta": 1 / 200}}
    with (
        pytest.warns(DeltaWarning, match="is not below 1 / num_units = 0.00416667"),
        pytest.raises(ValueError, match="Audit at a smaller delta"),
    ):
        ready(options)
