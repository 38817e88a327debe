"""The attack in words: numbers, ceilings, alarm, and what the numbers do not show."""

import numpy as np
import pytest

from dpjax.audit import loss_attack, render_attack_section


def attack(shift, size=1000):
    rng = np.random.default_rng(0)
    return loss_attack(rng.normal(-shift, 1, size), rng.normal(0, 1, size))


def test_numbers_intervals_and_ceilings_are_in_the_table():
    result = attack(0.1)
    text = render_attack_section(result, epsilon=3.0, delta=1e-5)
    low, high = result.auc_interval
    assert f"| AUC | {result.auc:.3f} | {low:.3f} to {high:.3f} | 0.5 | 0.953 |" in text
    assert f"| TPR at 1 % FPR | {100 * result.tpr:.1f} % |" in text and "| 20.1 % |" in text
    assert "1000 training records against 1000 held-out ones" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({row.count("|") for row in rows}) == 1


def test_it_says_what_is_not_shown():
    for guarantee in ({"epsilon": 3.0, "delta": 1e-5}, {"epsilon": None, "delta": None}):
        text = render_attack_section(attack(0.0), **guarantee)
        assert "**descriptive**" in text and "A weak result proves nothing" in text
        assert "differ in nothing else" in text and "no better than guessing" in text


def test_alarm_only_beyond_the_ceiling():
    leak = attack(3.0)
    text = render_attack_section(leak, epsilon=1.0, delta=1e-5)
    assert "**ALARM.**" in text and "Neither number exceeds" not in text
    text = render_attack_section(leak, epsilon=20.0, delta=1e-5)
    assert "ALARM" not in text and "The attack works" in text


def test_without_privacy_nothing_is_promised():
    text = render_attack_section(attack(3.0), epsilon=None, delta=None)
    assert "no privacy" in text and "The attack works" in text
    assert "allows" not in text and "ALARM" not in text


def test_few_caught_for_certain_is_a_working_attack_whatever_the_auc():
    rng = np.random.default_rng(0)
    members, nonmembers = rng.random(2000), rng.random(2000)
    members[:150] = -1.0
    members[150:300] = 2.0
    result = loss_attack(members, nonmembers)
    assert result.auc_interval[0] < 0.5
    assert "The attack works" in render_attack_section(result, epsilon=8.0, delta=1e-5)


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, None), (None, 1e-5)])
def test_half_a_guarantee_is_refused(epsilon, delta):
    with pytest.raises(ValueError, match="belong together"):
        render_attack_section(attack(0.0), epsilon=epsilon, delta=delta)
