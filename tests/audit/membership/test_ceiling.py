"""What (ε, δ) allows: the area in closed form, planted leaks and false alarms."""

import numpy as np
import pytest
from dpjax_accounting import tpr_ceiling

from dpjax.audit import AttackResult, auc_ceiling, ceiling_alarms, exceeds_ceiling, loss_attack


def null_attack(seed, size=500):
    rng = np.random.default_rng(seed)
    return loss_attack(rng.normal(size=size), rng.normal(size=size))


def attack_on_the_ceiling(epsilon, delta, rng, size=1000):
    """Draws scores whose population ROC is exactly what (ε, δ) allows."""
    grid = np.concatenate([[0.0], np.geomspace(1e-6, 1, 4001)])
    ceiling = tpr_ceiling(grid, epsilon=epsilon, delta=delta)
    members = np.interp(rng.random(size), np.append(0.0, ceiling), np.append(0.0, grid))
    return loss_attack(members, rng.random(size))


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0, 30.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.2, 1.0])
def test_auc_ceiling_is_the_area_under_the_tpr_ceiling(epsilon, delta):
    fpr = np.concatenate([[0.0], np.geomspace(1e-15, 1, 200_001)])
    area = np.trapezoid(tpr_ceiling(fpr, epsilon=epsilon, delta=delta), fpr)
    assert auc_ceiling(epsilon=epsilon, delta=delta) == pytest.approx(area, abs=1e-6)


def test_auc_ceiling_of_known_cases():
    assert auc_ceiling(epsilon=0.0, delta=0.0) == 0.5
    assert auc_ceiling(epsilon=1.0, delta=0.0) == pytest.approx(np.e / (1 + np.e))
    assert auc_ceiling(epsilon=800.0, delta=1e-5) == 1.0


@pytest.mark.parametrize("size", [60, 1000])
@pytest.mark.parametrize("read_back", [False, True])
def test_a_planted_leak_raises_the_alarm(size, read_back):
    result = loss_attack(np.linspace(0, 1, size), np.linspace(2, 3, size))
    if read_back:
        result = AttackResult.from_dict(result.to_dict())
    assert exceeds_ceiling(result, epsilon=1.0, delta=1e-5)
    alarms = ceiling_alarms(result, epsilon=1.0, delta=1e-5)
    assert alarms[0].startswith("the AUC is at least") and alarms[1].startswith("the TPR is")
    assert not exceeds_ceiling(result, epsilon=30.0, delta=1e-5)


def test_a_leak_of_few_records_shows_in_the_tpr_alone():
    rng = np.random.default_rng(0)
    members, nonmembers = rng.random(2000), rng.random(2000)
    members[:400] = -1.0
    alarms = ceiling_alarms(loss_attack(members, nonmembers), epsilon=1.0, delta=1e-5)
    assert len(alarms) == 1 and alarms[0].startswith("the TPR")


def test_a_leak_spread_over_all_records_shows_in_the_auc_alone():
    rng = np.random.default_rng(0)
    result = loss_attack(rng.uniform(0, 0.5, 2000), rng.random(2000))
    alarms = ceiling_alarms(result, epsilon=0.5, delta=1e-5)
    assert len(alarms) == 1 and alarms[0].startswith("the AUC")


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_null_attacks_raise_no_alarm(epsilon):
    assert not any(
        exceeds_ceiling(null_attack(seed), epsilon=epsilon, delta=1e-5) for seed in range(50)
    )


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (1.0, 1e-5), (3.0, 0.01)])
def test_false_alarms_on_the_ceiling_itself_are_rare(epsilon, delta):
    rng = np.random.default_rng(4)
    alarms = [
        ceiling_alarms(attack_on_the_ceiling(epsilon, delta, rng), epsilon=epsilon, delta=delta)
        for _ in range(300)
    ]
    by_auc = np.mean([any("AUC" in line for line in lines) for lines in alarms])
    by_tpr = np.mean([any("TPR" in line for line in lines) for lines in alarms])
    assert by_tpr <= 0.05
    # 2.5 % and three standard errors.
    assert by_auc <= 0.052


@pytest.mark.parametrize(
    ("epsilon", "delta", "error"),
    [(-1.0, 1e-5, ValueError), (1.0, 1.5, ValueError), ("3", 1e-5, TypeError)],
)
def test_bad_guarantees_are_refused(epsilon, delta, error):
    with pytest.raises(error, match=r"epsilon|delta"):
        exceeds_ceiling(null_attack(0), epsilon=epsilon, delta=delta)
