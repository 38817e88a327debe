"""The loss attack: orientation, notes, what it refuses, and the way to a file and back."""

import json

import numpy as np
import pytest

from dpjax.audit import AttackResult, auc, loss_attack, score_attack


def losses(shift, num_members=300, num_nonmembers=200, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(2, np.exp(-shift), num_members), rng.gamma(2, 1, num_nonmembers)


def test_low_loss_means_member():
    result = loss_attack([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])
    assert (result.auc, result.tpr) == (1.0, 1.0)
    assert loss_attack([1.0, 2.0, 3.0], [0.1, 0.2, 0.3]).auc == 0.0


def test_result_holds_what_it_says():
    members, nonmembers = losses(0.5)
    result = loss_attack(members, nonmembers, confidence=0.9, fpr_level=0.1)
    assert (result.attack, result.label) == ("loss", "descriptive")
    assert (result.num_members, result.num_nonmembers) == (300, 200)
    assert (result.confidence, result.fpr_level) == (0.9, 0.1)
    assert result.auc == auc(-members, -nonmembers)
    assert result.auc_interval[0] < result.auc < result.auc_interval[1]
    threshold = np.sort(nonmembers)[20]
    assert result.tpr == np.mean(members < threshold)
    assert result.tpr_interval[0] < result.tpr < result.tpr_interval[1]
    wider = loss_attack(members, nonmembers, confidence=0.99, fpr_level=0.1)
    assert wider.auc_interval[0] < result.auc_interval[0]
    assert wider.tpr_interval[0] < result.tpr_interval[0]


def test_float32_losses_and_other_scores_give_the_same():
    members, nonmembers = (side.astype(np.float32) for side in losses(0.5))
    by_loss = loss_attack(members, nonmembers)
    by_score = score_attack(1 / members, 1 / nonmembers, attack="inverse loss")
    assert by_score.attack == "inverse loss"
    assert by_loss.auc == pytest.approx(by_score.auc, abs=1e-6)


@pytest.mark.parametrize(("num_nonmembers", "flagged"), [(199, True), (200, False), (60, True)])
def test_too_few_nonmembers_are_flagged(num_nonmembers, flagged):
    members, nonmembers = losses(0.0, num_nonmembers=num_nonmembers)
    notes = " ".join(loss_attack(members, nonmembers, fpr_level=0.05).notes)
    assert ("Too few non-members for FPR 5 %" in notes) == flagged
    assert ("With 200 it would" in notes) == flagged


def test_notes_say_when_the_numbers_mean_nothing():
    assert "differ in nothing else" in loss_attack(*losses(0.0)).notes[0]
    for shift in (0.0, 0.5):
        assert not any("Non-members fit" in note for note in loss_attack(*losses(shift)).notes)
    assert any("Non-members fit" in note for note in loss_attack(*losses(-0.5)).notes)


def test_infinite_losses_rank_last_and_are_mentioned():
    members, nonmembers = [0.1, np.inf, 0.3], [1.0, 2.0, np.inf]
    result = loss_attack(members, nonmembers)
    assert result.auc == loss_attack([0.1, 99.0, 0.3], [1.0, 2.0, 99.0]).auc
    assert any(note.startswith("member_losses: 1 of 3 are infinite") for note in result.notes)
    assert any(note.startswith("nonmember_losses: 1 of 3") for note in result.notes)


@pytest.mark.parametrize(
    ("members", "nonmembers", "message"),
    [
        ([], [1.0], "member_losses is empty"),
        ([1.0], [], "nonmember_losses is empty"),
        ([1.0], [np.nan, 1.0], "nonmember_losses holds NaN for 1 of 2"),
        ([-np.inf], [1.0], "member_losses holds -inf"),
        (np.ones((2, 2)), [1.0], r"one number per record; got shape \(2, 2\)"),
    ],
)
def test_bad_losses_are_refused_in_words(members, nonmembers, message):
    with pytest.raises(ValueError, match=message):
        loss_attack(members, nonmembers)


@pytest.mark.parametrize("name", ["confidence", "fpr_level"])
@pytest.mark.parametrize("value", [0, 1, 95, float("nan")])
def test_bad_shares_are_refused_in_words(name, value):
    with pytest.raises(ValueError, match=f"{name} must lie strictly between 0 and 1"):
        loss_attack([1.0], [2.0], **{name: value})


@pytest.mark.parametrize("size", [1, 40, 3000])
def test_json_round_trip(size):
    members, nonmembers = losses(0.5, size, size)
    members[0] = np.inf
    result = loss_attack(members, nonmembers)
    text = json.dumps(result.to_dict(), allow_nan=False)
    again = AttackResult.from_dict(json.loads(text))
    assert again.to_dict() == result.to_dict()
    assert again.auc_interval == result.auc_interval and again.notes == result.notes
    assert len(again.roc.fpr) <= 200


def test_the_file_holds_no_score_of_a_record():
    members, nonmembers = losses(0.5)
    fields = loss_attack(members, nonmembers).to_dict()
    assert set(fields["roc"]) == {"fpr", "tpr"}
    assert AttackResult.from_dict(fields).roc.thresholds is None


def test_from_dict_refuses_other_fields():
    fields = loss_attack(*losses(0.5)).to_dict()
    with pytest.raises(ValueError, match=r"no field 'tpr_intervall'.*'tpr_interval'"):
        AttackResult.from_dict(fields | {"tpr_intervall": 1})
    del fields["roc"], fields["notes"]
    with pytest.raises(ValueError, match="lacks roc, notes"):
        AttackResult.from_dict(fields)
