"""`fit` with users as units: what one has is one clipped contribution."""

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


def test_all_records_of_one_user_move_a_step_by_at_most_the_clip_norm(mechanism):
    x = np.random.default_rng(0).normal(size=(len(NAMES), 2)).astype(np.float32)
    changed = x.copy()
    changed[[name == "user 7" for name in NAMES]] = 1e4
    moved = []
    for step in range(mechanism.num_steps):
        params = []
        for data in (x, changed):
            for done in fit(data, mechanism):
                if done.step == step + 1:
                    break
            params.append(np.asarray(done.params, np.float64))
        moved.append(np.linalg.norm(params[1] - params[0]))
    # A learning rate of 0.1, a divisor of 10: C = 0.5 moves parameters by 0.005, twice if replaced.
    # Later steps of the user add up; gradients of others move with the parameters.
    first = next(size for size in moved if size)
    assert 0 < first <= 2 * 0.1 * 0.5 / 10 * (1 + 1e-4)
