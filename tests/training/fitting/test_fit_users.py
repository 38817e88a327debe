"""`fit` with users as units: what one has is one clipped contribution."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD, UserLevelDPSGD, UserSampledDPSGD, verify_report
from rich.console import Console

import dpjax
from dpjax.data import OwnedRecords, RecordsByOwner

QUIET = Console(quiet=True)
NAMES = [f"user {i}" for i in range(30) for _ in range(1 + i % 4)]


def squares(params, x):
    return jnp.sum((params - x) ** 2)


@pytest.fixture
def mechanism():
    return UserSampledDPSGD(
        num_units=30,
        expected_batch_size=10,
        noise_multiplier=1.2,
        num_steps=4,
        records_per_user=3,
    )


def fit(x, mechanism):
    return dpjax.fit(
        dpjax.unit_loss(squares, reduction="mean"),
        jnp.zeros(2),
        RecordsByOwner(x, NAMES, at_most=3),
        mechanism=mechanism,
        optimizer=optax.sgd(0.1),
        clip_norm=0.5,
        delta=1e-3,
        run_key=dpjax.RunKey.from_seed(2),
    )


def test_the_report_is_about_users(mechanism):
    x = np.random.default_rng(0).normal(size=(len(NAMES), 2)).astype(np.float32)
    result = fit(x, mechanism).run(QUIET)
    report = json.loads(json.dumps(result.privacy))
    assert verify_report(report) == []
    assert report["guarantee"]["unit"] == "user"
    assert report["assumptions"][0].startswith("One user is one entry")
    words = json.dumps(report).lower()
    assert "every user is drawn" in words
    assert "which users were drawn" in words
    assert "one record" not in words
    assert all(row["num_records"] <= 30 for row in result.metrics)


def test_all_records_of_one_user_move_the_first_step_by_at_most_twice_the_clip_norm(mechanism):
    everybody = dataclasses.replace(mechanism, expected_batch_size=30)
    x = np.random.default_rng(0).normal(size=(len(NAMES), 2)).astype(np.float32)
    changed = x.copy()
    changed[[name == "user 7" for name in NAMES]] = -1e4
    params = [next(iter(fit(data, everybody))).params for data in (x, changed)]
    # Exchanged for others: a learning rate of 0.1 times 2C / 30.
    moved = np.linalg.norm(np.asarray(params[1] - params[0], np.float64))
    assert 0 < moved <= 0.1 * 2 * 0.5 / 30 * (1 + 1e-4)


# Single records, with the guarantee for whoever owns several.

AT_MOST = 3
KEPT = 30 + 22 + 14


@pytest.fixture
def of_records():
    return UserLevelDPSGD(
        num_records=KEPT,
        expected_batch_size=20,
        noise_multiplier=6.0,
        num_steps=4,
        records_per_user=AT_MOST,
    )


def fit_records(x, mechanism, names=NAMES, **options):
    return dpjax.fit(
        squares,
        jnp.zeros(2),
        OwnedRecords(x, names, at_most=AT_MOST),
        mechanism=mechanism,
        optimizer=optax.sgd(0.1),
        clip_norm=0.5,
        delta=1e-3,
        run_key=dpjax.RunKey.from_seed(2),
        **options,
    )


def test_single_records_are_drawn_and_a_user_is_protected(of_records, tmp_path):
    x = np.random.default_rng(0).normal(size=(len(NAMES), 2)).astype(np.float32)
    folder = {"output_dir": tmp_path / "run", "ledger": tmp_path / "ledger.jsonl"}
    run = fit_records(x, of_records, **folder)
    for done in run:
        if done.step == 2:
            break
    run.result()
    del run
    # The same records of others are other data.
    with pytest.raises(ValueError, match=r"cannot resume.*data is not what"):
        fit_records(x, of_records, ["user 1", *NAMES[1:]], resume=True, **folder)
    result = fit_records(x, of_records, resume=True, **folder).run(QUIET)
    assert result.epsilon == of_records.epsilon(1e-3)
    report = json.loads(json.dumps(result.privacy))
    assert report["guarantee"]["unit"] == "user"
    assert report["dataset_total"]["epsilon"] == pytest.approx(result.epsilon)
    first = json.loads(folder["ledger"].read_text().splitlines()[0])
    assert first["record"]["dataset"]["num_units"] == 30
    assert "at most 3 records in training" in report["assumptions"][0]
    assert "differ by one user added or removed" in report["assumptions"][1]
    assert "every record is drawn" in report["implementation"]["sampling"]
    assert "One record is" not in json.dumps(report)
    assert all(row["num_records"] <= KEPT for row in result.metrics)


def test_all_records_of_one_user_move_the_first_step_by_at_most_2k_clip_norms(of_records):
    everything = dataclasses.replace(of_records, expected_batch_size=KEPT)
    x = np.random.default_rng(0).normal(size=(len(NAMES), 2)).astype(np.float32)
    changed = x.copy()
    changed[[name == "user 7" for name in NAMES]] = -1e4
    params = [next(iter(fit_records(data, everything))).params for data in (x, changed)]
    moved = np.linalg.norm(np.asarray(params[1] - params[0], np.float64))
    assert 0.1 * 2 * 0.5 / KEPT < moved <= 0.1 * AT_MOST * 2 * 0.5 / KEPT * (1 + 1e-4)


@pytest.mark.parametrize(
    ("data", "changes", "error", "words"),
    [
        (lambda x: x, {}, TypeError, "data must be OwnedRecords with UserLevelDPSGD, got ndarray"),
        (
            lambda x: RecordsByOwner(x, NAMES, at_most=3),
            {},
            TypeError,
            "must be OwnedRecords.*got RecordsByOwner",
        ),
        (
            lambda x: OwnedRecords(x, NAMES, at_most=4),
            {"num_records": len(NAMES)},
            ValueError,
            "at_most=4 of OwnedRecords leaves an owner 4 records.*records_per_user=3",
        ),
        (
            lambda x: OwnedRecords(x, NAMES, at_most=3),
            {"num_records": 30},
            ValueError,
            f"num_records must be the {KEPT} records",
        ),
    ],
)
def test_what_says_too_little_of_owners_is_refused(of_records, data, changes, error, words):
    x = np.zeros((len(NAMES), 2), np.float32)
    mechanism = dataclasses.replace(of_records, **changes)
    with pytest.raises(error, match=words):
        dpjax.fit(
            squares,
            jnp.zeros(2),
            data(x),
            mechanism=mechanism,
            optimizer=optax.sgd(0.1),
            clip_norm=0.5,
        )


def test_owned_records_are_not_for_a_guarantee_of_records():
    data = OwnedRecords(np.zeros((len(NAMES), 2), np.float32), NAMES, at_most=3)
    mechanism = DPSGD(
        num_units=len(data), expected_batch_size=10, noise_multiplier=1.0, num_steps=2
    )
    with pytest.raises(TypeError, match="OwnedRecords go with UserLevelDPSGD, got DPSGD"):
        dpjax.fit(
            squares,
            jnp.zeros(2),
            data,
            mechanism=mechanism,
            optimizer=optax.sgd(0.1),
            clip_norm=0.5,
        )
