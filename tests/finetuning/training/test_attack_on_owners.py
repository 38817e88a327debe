"""The attack in report.md where the guarantee is for owners: on owners, if both sides name them."""

import copy
import dataclasses
import json

import numpy as np
import pytest

import dpjax
from dpjax.data import Owners
from dpjax.finetuning.training import attack
from tests.support.owned_records import COUNTS, author_of_each, make_run, owned_file

STRANGERS = [f"stranger {i}" for i in range(10) for _ in range(1 + i % 5)]


@pytest.fixture
def options(cheap_options, train_file, eval_file, tmp_path):
    train = owned_file(train_file, tmp_path / "train.csv", author_of_each())
    # Two authors of training records have held-out ones too.
    held_out = owned_file(eval_file, tmp_path / "eval.csv", ["author 3", *STRANGERS, "author 0"])
    changed = copy.deepcopy(cheap_options) | {"output_dir": tmp_path / "run"}
    changed["train_data"] = {"path": str(train), "owner_column": "author"}
    changed["eval_data"] = {"path": str(held_out), "owner_column": "author"}
    changed["privacy"] |= {"records_per_owner": 3, "delta": 1e-4}
    changed["training"] |= {"expected_batch_size": 16, "microbatch_size": 12}
    return changed


def test_owners_are_attacked_by_the_mean_loss_of_their_records(options):
    result = dpjax.finetune(**options)
    found = result.attack
    assert (found.attack, found.num_members, found.num_nonmembers) == ("owner loss", 48, 10)
    folder = options["output_dir"]
    markdown = (folder / "report.md").read_text()
    assert "48 owners of training records against 10 held-out ones" in markdown
    assert "mean over at most 4 records; 2 held-out records of owners who are in" in markdown
    assert "is meant for one owner added or removed" in markdown
    assert "The attack is on single records" not in markdown
    assert json.loads((folder / "attack.json").read_text())["attack"] == "owner loss"


class Losses:
    """What the model makes of records, without one: each has the loss that its row says."""

    def __init__(self, losses):
        self.losses = np.asarray(losses, np.float32)

    @property
    def finite_losses(self):
        return self.losses[np.isfinite(self.losses)]

    @property
    def num_nonfinite(self):
        return len(self.losses) - len(self.finite_losses)


@pytest.fixture
def attacked(options, monkeypatch):
    """Function from losses of training and held-out records to the result."""

    def make(train, held_out, **privacy):
        options["privacy"] |= privacy
        run = make_run(options)
        marked = dataclasses.replace(run.plan.train, labels=np.arange(len(run.plan.train)))
        plan = dataclasses.replace(run.plan, train=marked)
        run = dataclasses.replace(run, plan=plan)
        monkeypatch.setattr(
            attack, "evaluate", lambda task, model, records, layout: Losses(train[records.labels])
        )
        return attack.attack_run(run, None, Losses(held_out))

    return make


def test_a_trace_too_weak_in_single_records_shows_in_their_owners(attacked, options):
    """The reason for it: over four records the noise averages out, and the trace does not."""
    rng = np.random.default_rng(1)
    train = rng.normal(size=sum(COUNTS)) - 0.7
    held_out = rng.normal(size=2 + len(STRANGERS))
    of_owners = attacked(train, held_out)
    del options["eval_data"]["owner_column"]
    of_records = attacked(train, held_out)
    assert of_records.attack == "loss"
    assert "on single records" in of_records.notes[-1]
    assert "Name eval_data.owner_column" in of_records.notes[-1]
    assert of_owners.auc > of_records.auc + 0.05


@pytest.mark.parametrize("sampling", ["owners", "records"])
def test_who_is_in_training_is_no_stranger(attacked, sampling):
    # Their held-out records fit as well as if they had been trained on.
    held_out = np.ones(2 + len(STRANGERS))
    held_out[[0, -1]] = -100.0
    found = attacked(np.zeros(sum(COUNTS)), held_out, owner_sampling=sampling)
    assert found.auc == 1.0
    assert f"at most {4 if sampling == 'owners' else 3} records" in found.notes[-1]


def test_losses_that_are_not_finite_leave_their_owner_out_only_together(attacked):
    train, held_out = np.zeros(sum(COUNTS)), np.ones(2 + len(STRANGERS))
    owners = Owners.of(author_of_each())
    train[owners.rows_of(0)[:1]] = np.nan
    train[owners.rows_of(1)] = np.inf
    found = attacked(train, held_out)
    assert (found.num_members, found.num_nonmembers) == (47, 10)
    with pytest.raises(ValueError, match="no held-out owner has a record with a finite loss"):
        attacked(train, held_out * np.nan)


def test_where_all_are_in_training_single_records_are_attacked(options, eval_file):
    names = ["author 1"] * 80
    owned_file(eval_file, options["output_dir"].parent / "eval.csv", names)
    run = make_run(options)
    held_out = Losses(np.ones(80))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack, "evaluate", lambda *given: Losses(np.zeros(len(given[2]))))
        found = attack.attack_run(run, None, held_out)
    assert found.attack == "loss"
    assert "nobody to compare with" in found.notes[-1]


def test_many_owners_are_a_random_part(monkeypatch):
    owners = Owners.of([i for i in range(3000) for _ in range(1 + i % 6)])
    rows = attack._some_owners(owners, 4)
    chosen = Owners.of(owners.owner_of[rows])
    assert 1990 <= len(rows) <= 2000
    assert chosen.counts.max() == 4
    numbers = np.unique(owners.owner_of[rows])
    assert abs(numbers.mean() - 1500) < 5 * 3000 / np.sqrt(12 * len(numbers))
    # Whole owners: nobody's records are cut off at the end.
    assert np.array_equal(chosen.counts, np.minimum(1 + numbers % 6, 4))
