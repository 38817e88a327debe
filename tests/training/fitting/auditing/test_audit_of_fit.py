"""Audits of `fit`: coins, numbers of units, scores, verdicts; and bugs that must be noticed."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from dpjax_accounting import (
    DPSGD,
    DPSGDSchedule,
    FixedSizeDPSGD,
    Segment,
    UserLevelDPSGD,
    UserSampledDPSGD,
    verify_report,
)

import dpjax
from dpjax.audit import flip_coins, hold_out, number_ids, verify_audit_report
from dpjax.data import OwnedRecords
from dpjax.privatize.randomness import source
from tests.training.fitting.auditing.audited_fit import (
    CANARIES,
    FLAT,
    KEY,
    NUM,
    attention,
    canaries,
    options,
    train,
)


@pytest.fixture(scope="module")
def correct():
    return train()


class Unclipped(dpjax.FlatClipping):
    """A planted bug: a rule that does not do what it says."""

    def factors(self, group_norms):
        return jnp.ones_like(group_norms)


def test_a_correct_run_is_no_violation(correct):
    report = correct.audit
    assert verify_audit_report(json.loads(json.dumps(report))) == []
    assert report["verdict"]["conclusion"] in ("consistent", "too weak to tell")
    assert report["certified"]["epsilon"] < correct.epsilon == report["claimed_epsilon"]
    assert (report["audited"], report["score"]) == ("canaries", "loss drop")
    coins = flip_coins(number_ids("canary", CANARIES), run_key=KEY)
    assert [row["included"] for row in report["canaries"]] == coins.included.tolist()
    assert report["details"]["salt_of_coins"] == coins.salt.hex()
    # Every score is what training has done to the canary's coordinate.
    moved = [row["score"] for row in report["canaries"]]
    np.testing.assert_allclose(moved, 100 * np.asarray(correct.params), rtol=1e-5)


def test_the_report_of_privacy_tells_of_the_coins(correct):
    privacy = correct.privacy
    assert verify_report(privacy) == [] and privacy["mechanism"]["num_units"] == NUM + 50
    assert "it holds for each canary even if all coins are known" in privacy["assumptions"][-1]
    assert privacy["data_uses"][-1]["status"] == "not covered"
    assert "audit.json" in privacy["trust"]["kept_secret"][-1]


@pytest.mark.parametrize("bug", ["no noise", "no clipping"])
def test_a_planted_bug_is_a_violation(bug, monkeypatch):
    changes = {}
    if bug == "no noise":

        def without_noise(clipped_sum, *_, mechanism, **__):
            return clipped_sum / mechanism.num_units

        monkeypatch.setattr(source, "noisy_mean", without_noise)
    else:
        changes = {"clip_norm": None, "rule": Unclipped(1.0)}
    report = train(**changes).audit
    assert report["verdict"]["conclusion"] == "violation"
    assert verify_audit_report(report) == []


def test_no_one_who_is_left_out_is_ever_drawn():
    coins = flip_coins(number_ids("canary", CANARIES), run_key=KEY)
    mechanism = DPSGD(
        num_units=NUM + 50, expected_batch_size=45, noise_multiplier=1.0, num_steps=30
    )
    run = dpjax.fit(**options(mechanism=mechanism))
    drawn, counts = set(), []
    for step in range(30):
        counts.append(0)
        for rows, mask in run.steps.batches(step, microbatch_size=32, order=lambda rows: rows):
            drawn |= set(rows[mask].tolist())
            counts[-1] += int(mask.sum())
    expected = {*range(NUM), *(NUM + np.flatnonzero(coins.included)).tolist()}
    assert drawn == expected
    # q = B / n for each that is present, whatever the coins say.
    present = len(expected)
    assert np.mean(counts) == pytest.approx(present / 2, abs=4 * np.sqrt(present / 4 / 30))


def test_rows_are_left_out_as_hold_out_leaves_them_out():
    # All records but the first are audited; without privacy they are told apart.
    rows = np.arange(1, CANARIES)
    recipe = dpjax.NoPrivacy(num_units=1 + 49, expected_batch_size=50, num_steps=2)
    changes = {"data": canaries(), "mechanism": recipe, "clip_norm": None, "delta": None}
    result = train(**changes, audit=dpjax.FitAudit(rows=rows))
    report = result.audit
    coins = hold_out([number_ids("record", CANARIES)[row] for row in rows], run_key=KEY).coins
    assert [row["id"] for row in report["canaries"]][:2] == ["record-0002", "record-0003"]
    assert [row["included"] for row in report["canaries"]] == coins.included.tolist()
    assert np.flatnonzero(np.asarray(result.params)[1:]).tolist() == (
        np.flatnonzero(coins.included).tolist()
    )
    assert report["verdict"]["conclusion"] == "no claim" and report["attack"]["auc"] == 1.0
    assert report["audited"] == "records" and "do not publish" in report["notes"][0]
    assert report["details"]["left_out"] == int((~coins.included).sum())


def test_copies_of_records_that_are_in_are_counted():
    data = np.repeat(canaries()[:50], 2, axis=0)
    recipe = dpjax.NoPrivacy(num_units=50, expected_batch_size=50, num_steps=1)
    changes = {"data": data, "mechanism": recipe, "clip_norm": None, "delta": None}
    report = train(**changes, audit=dpjax.FitAudit(rows=range(100))).audit
    included = [row["included"] for row in report["canaries"]]
    copies = sum(included[i] != included[i + 1] for i in range(0, 100, 2))
    name = "left_out_with_a_copy_among_audited_records_in_training"
    assert report["details"][name] == copies > 0
    assert f"{copies} of {included.count(False)} records" in report["notes"][1]


def test_a_score_of_your_own_reads_what_the_loss_reads():
    def drift(params, x, frozen):
        return jnp.vdot(params, x) * frozen

    def loss(params, x, frozen):
        return attention(params, x) * frozen

    audit = dpjax.FitAudit(canaries=canaries(), score=drift)
    result = train(loss=loss, audit=audit, frozen=jnp.float32(2.0))
    scores = [row["score"] for row in result.audit["canaries"]]
    np.testing.assert_allclose(scores, 200 * np.asarray(result.params), rtol=1e-5)
    assert result.audit["score"] == "drift"


def test_coins_stay_closed_until_the_last_step():
    run = dpjax.fit(**options())
    for _done in run:
        break
    assert run.result().audit is None


def test_an_audit_that_fails_does_not_end_the_run():
    audit = dpjax.FitAudit(canaries=canaries(), score=lambda params, x: jnp.nan)
    with pytest.warns(RuntimeWarning, match="the audit failed: .* the score of canary-0001 is no"):
        result = train(audit=audit)
    assert result.audit is None and result.epsilon > 0


def test_a_schedule_is_audited():
    segments = (
        Segment(expected_batch_size=90, noise_multiplier=2.0, num_steps=2),
        Segment(expected_batch_size=45, noise_multiplier=2.0, num_steps=2),
    )
    result = train(mechanism=DPSGDSchedule(num_units=NUM + 50, segments=segments))
    assert result.audit["verdict"]["conclusion"] != "violation"
    assert verify_audit_report(result.audit) == []


def test_a_user_with_all_records_may_be_a_canary():
    data = {
        "examples": np.zeros((NUM, 2, CANARIES), np.float32),
        "mask": np.ones((NUM, 2), np.bool_),
    }
    users = {"examples": np.stack([canaries()] * 2, axis=1), "mask": np.ones((CANARIES, 2), bool)}
    mechanism = UserSampledDPSGD(
        num_units=NUM + 50,
        expected_batch_size=90,
        noise_multiplier=2.0,
        num_steps=4,
        records_per_user=2,
    )
    result = train(
        loss=dpjax.unit_loss(attention, reduction="mean"),
        data=data,
        mechanism=mechanism,
        audit=dpjax.FitAudit(canaries=users),
    )
    assert result.audit["verdict"]["conclusion"] != "violation"
    assert result.audit["attack"]["auc"] > 0.6 and result.privacy["guarantee"]["unit"] == "user"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"audit": {"rows": 3}}, TypeError, "audit must be a FitAudit, got dict"),
        (
            {"mechanism": dataclasses.replace(FLAT, num_units=NUM)},
            ValueError,
            "must have num_units=90, got 40: of 40 records and 100 canaries",
        ),
        (
            {"mechanism": dataclasses.replace(FLAT, neighboring="replace_one")},
            ValueError,
            "adds or removes records, got FullBatch with neighboring='replace_one'",
        ),
        (
            {
                "mechanism": FixedSizeDPSGD(
                    num_units=90, batch_size=9, noise_multiplier=9.0, num_steps=2
                )
            },
            ValueError,
            "FixedSizeDPSGD cannot: another unit would take the place of an absent one",
        ),
        (
            {
                "data": OwnedRecords(np.zeros((NUM, CANARIES), np.float32), range(NUM), at_most=1),
                "mechanism": UserLevelDPSGD(
                    num_records=NUM,
                    records_per_user=1,
                    expected_batch_size=4,
                    noise_multiplier=2.0,
                    num_steps=2,
                ),
            },
            ValueError,
            "UserLevelDPSGD the claim is one for owners",
        ),
        ({"ledger": "ledger", "output_dir": "run"}, ValueError, "give no ledger, or no audit"),
        (
            {"audit": dpjax.FitAudit(canaries=canaries()[:, :3])},
            ValueError,
            "a canary must have the arrays of a record",
        ),
        (
            {"audit": dpjax.FitAudit(canaries=np.ones((100, CANARIES), np.float32))},
            ValueError,
            "99 of 100 canaries are equal to another",
        ),
        (
            {
                "audit": dpjax.FitAudit(canaries=canaries()[:4]),
                "mechanism": dataclasses.replace(FLAT, num_units=NUM + 2),
            },
            ValueError,
            r"4 canaries are too few to certify anything at ε = .*; \d+ or more",
        ),
        (
            {
                "audit": dpjax.FitAudit(rows=[3, 40]),
                "mechanism": dataclasses.replace(FLAT, num_units=39),
            },
            ValueError,
            "rows of the 40 records, got 40",
        ),
    ],
)
def test_what_could_show_nothing_is_refused_before_training(
    changes, error, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        dpjax.fit(**options(**changes))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, TypeError, "either canaries or rows"),
        ({"rows": [1, 1]}, ValueError, "rows must be different row numbers"),
        ({"rows": [0.5]}, ValueError, "rows must be different row numbers"),
        ({"rows": [-1]}, ValueError, "rows must be different row numbers"),
        ({"rows": []}, ValueError, "rows must be different row numbers"),
        ({"rows": [1], "confidence": 1.0}, ValueError, "confidence must be between 0 and 1"),
        ({"canaries": []}, TypeError, "canaries must be a pytree of NumPy or JAX arrays"),
        ({"canaries": np.zeros((0, 2))}, ValueError, "one or more records"),
    ],
)
def test_options_that_do_not_fit_are_refused(given, error, words):
    with pytest.raises(error, match=words):
        dpjax.FitAudit(**given)
