"""`fit` with users as units: what one has is one clipped contribution."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import UserSampledDPSGD, verify_report
from rich.console import Console

import dpjax
from dpjax.data import RecordsByOwner

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
