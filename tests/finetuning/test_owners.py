"""A run that protects owners: one column says whose a record is."""

import copy
import dataclasses
import json

import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD, Ledger, ShuffledDPSGD, UserSampledDPSGD, verify_report
from hypothesis import given, settings
from hypothesis import strategies as st

import dpjax
from dpjax.data import Owners
from dpjax.finetuning.reports.privacy_report import build
from dpjax.finetuning.setup.owners import identity_of
from dpjax.finetuning.setup.steps import owner_loss
from dpjax.finetuning.training import loop
from dpjax.privatize import sampler_for
from dpjax.training import PrivateTraining
from tests.support.mechanisms import (
    fixed_size,
    full_batch,
    random_allocation,
    truncated_poisson,
)
from tests.support.owned_records import (
    COUNTS,
    author_of_each,
    change,
    flat_sum,
    make_run,
    owned_file,
    with_data,
    with_other_texts,
)


@pytest.fixture(scope="session")
def owners():
    return author_of_each()


@pytest.fixture(scope="session")
def owned(train_file, tmp_path_factory, owners):
    return owned_file(train_file, tmp_path_factory.mktemp("owned") / "train.csv", owners)


@pytest.fixture
def options(cheap_options, owned, tmp_path):
    changed = copy.deepcopy(cheap_options) | {"output_dir": tmp_path / "run"}
    changed["train_data"] = {"path": str(owned), "owner_column": "author"}
    changed["privacy"] |= {"records_per_owner": 3, "delta": 1e-4}
    changed["training"] |= {"expected_batch_size": 16, "microbatch_size": 12}
    return changed


def test_the_guarantee_is_for_an_owner_in_report_and_page(options, capsys):
    result = dpjax.finetune(**options)
    said = " ".join(capsys.readouterr().out.split())
    assert f"an owner: {len(COUNTS)} of them, with 1 to 9 records" in said
    assert "differential privacy per user" in said
    folder = options["output_dir"]
    report = json.loads((folder / "privacy.json").read_text())
    assert verify_report(report) == []
    mechanism = UserSampledDPSGD(
        num_units=len(COUNTS),
        expected_batch_size=16,
        noise_multiplier=4.0,
        num_steps=4,
        records_per_user=3,
    )
    assert report["guarantee"]["unit"] == "user"
    assert report["guarantee"]["num_units"] == len(COUNTS)
    assert result.epsilon == mechanism.epsilon(1e-4)
    assert "'author'" in report["assumptions"][0]
    assert "at most 3 rows of each user" in report["assumptions"][0]
    words = json.dumps(report)
    assert "every user is drawn" in words
    assert "One record" not in words
    assert "one record" not in words
    page = (folder / "privacy.html").read_text()
    assert "at most 3 rows of each user" in page
    markdown = (folder / "report.md").read_text()
    assert "per user" in markdown
    assert f"| Owners | {len(COUNTS)}; batches are of owners, with at most 3 records" in markdown
    assert "The attack is on single records" in markdown
    assert all(row["num_records"] <= len(COUNTS) for row in result.metrics)


@pytest.mark.slow
def test_a_run_is_resumed_bit_equal_and_only_with_the_same_owners(
    options, stop_after, train_file, owners, tmp_path
):
    whole = dpjax.finetune(**copy.deepcopy(options) | {"output_dir": tmp_path / "whole"})
    stop_after(2, **copy.deepcopy(options))
    others = owned_file(train_file, tmp_path / "others.csv", ["a", *owners[1:]])
    for changed, words in (
        ({"privacy": options["privacy"] | {"records_per_owner": 2}}, "records_per_owner=3"),
        ({"train_data": {"path": str(others), "owner_column": "author"}}, "train_data"),
    ):
        with pytest.raises(ValueError, match=f"cannot resume.*{words}"):
            dpjax.finetune(**copy.deepcopy(options) | changed, resume=True)
    resumed = dpjax.finetune(**options, resume=True)
    assert [row["loss"] for row in resumed.metrics] == [row["loss"] for row in whole.metrics]


def test_the_same_records_of_other_owners_are_other_data(options, owners):
    plan = make_run(options).plan
    other = dataclasses.replace(plan, owners=Owners.of(["a", *owners[1:]][: len(plan.train)]))
    assert other.fingerprint() != plan.fingerprint()
    renamed = Owners.of([name.upper() for name in owners])
    found = identity_of(plan.train_records, plan.owners)
    assert found.unit == "user"
    assert found.num_units == len(COUNTS)
    assert identity_of(plan.train_records, renamed) == found
    assert identity_of(plan.train_records, other.owners).sha256 != found.sha256


def test_a_ledger_counts_users(options, tmp_path):
    path = tmp_path / "ledger.jsonl"
    options["privacy"]["ledger"] = str(path)
    result = dpjax.finetune(**options)
    report = json.loads((options["output_dir"] / "privacy.json").read_text())
    run = set_up_again(options, tmp_path)
    ledger = Ledger.open(path, run.plan.dataset)
    assert verify_report(report, ledger) == []
    assert report["dataset_total"]["epsilon"] == pytest.approx(result.epsilon)


def set_up_again(options, tmp_path):
    return make_run(options | {"output_dir": tmp_path / "again", "seed": None})


@pytest.mark.slow
def test_dropout_adapters_and_no_privacy(options):
    changed = {"tuning": "lora", "lora": {"dropout": 0.2}, "non_private": True}
    changed["privacy"] = {"records_per_owner": 2}
    changed["training"] = options["training"] | {"num_steps": 2}
    result = dpjax.finetune(**options | changed)
    assert result.epsilon is None
    assert all(np.isfinite(row["loss"]) for row in result.metrics)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_data.owner_column": "autor"}, r"no column 'autor'.*author"),
        (
            {
                "train_data.owner_column": None,
                "privacy.records_per_owner": 1,
                "eval_data": {"path": "x.csv", "owner_column": "author"},
            },
            "eval_data.owner_column='author' has no meaning without train_data.owner_column",
        ),
        ({"privacy.records_per_owner": 0}, "records_per_owner must be between 1 and 1000, got 0"),
        ({"train_data.owner_column": None}, "records_per_owner=3 has no meaning without an owner"),
        (
            {"training.expected_batch_size": 49},
            "expected_batch_size=49 is more than the 48 owners of training records",
        ),
        ({"audit": {"hold_out": 0.5}}, "the claim is one for owners"),
        ({"privacy.sampling": "fixed-size"}, "add_or_remove_one is not accounted for"),
    ],
)
def test_what_does_not_fit_is_refused(options, changes, words):
    change(options, changes)
    with pytest.raises(ValueError, match=words):
        make_run(options)
    assert not options["output_dir"].exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda names: ["", *names[1:3], " ", *names[4:]], r"owner missing.*lines 2, 5\)"),
        (lambda names: ["one"] * len(names), "all 204 records have the same value"),
    ],
)
def test_owners_that_do_not_fit_are_refused(options, owners, train_file, tmp_path, change, words):
    path = owned_file(train_file, tmp_path / "bad.csv", change(owners))
    options["train_data"]["path"] = str(path)
    with pytest.raises(ValueError, match=words):
        make_run(options)


# With each a relation, and what the report says of the draws.
SAMPLINGS = {
    "truncated-poisson": (
        "replace_one",
        truncated_poisson(48, 16, 4.0, 4, largest_batch_size=40),
        "Of a batch of more than 40",
    ),
    "fixed-size": ("zero_out", fixed_size(48, 16, 4.0, 4), "random subset of 16 users"),
    "random-allocation": ("zero_out", random_allocation(48, 3, 4.0, 2), "each user is put into"),
    "shuffled": (
        "replace_one",
        ShuffledDPSGD(noise_multiplier=4.0, num_epochs=2, num_units=48, batch_size=16),
        "random order of all users",
    ),
    "full-batch": ("add_or_remove_one", full_batch(4.0, 4, num_units=48), "every user takes part"),
}


@pytest.fixture
def with_sampling(options):
    """Function from a way of sampling to the options of a run of owners."""

    def make(sampling):
        options["privacy"] |= {"sampling": sampling, "neighboring": SAMPLINGS[sampling][0]}
        if sampling == "full-batch":
            del options["training"]["expected_batch_size"]
        if sampling in ("random-allocation", "shuffled"):
            options["training"]["num_steps"] = 6
        return options

    return make


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_way_of_sampling_draws_owners(sampling, with_sampling):
    run = make_run(with_sampling(sampling))
    relation, of_records, words = SAMPLINGS[sampling]
    mechanism = run.plan.mechanism
    assert (mechanism.unit, mechanism.records_per_user) == ("user", 3)
    of_records = dataclasses.replace(of_records, neighboring=relation)
    assert mechanism.epsilon(1e-4) == of_records.epsilon(1e-4)
    assert isinstance(mechanism, type(of_records))
    sampler = sampler_for(of_records, run.run_key)
    steps = loop._make_steps(run, optax.sgd(0.1))
    longest = 0
    for step in range(run.plan.num_steps):
        drawn = [(batch["mask"], mask) for batch, mask in loop._drawn(run, steps, step)]
        assert sum(mask.sum() for _, mask in drawn) == len(sampler.indices(step))
        longest = max([longest, *(records.sum(axis=1).max() for records, _ in drawn)])
    assert longest == 3
    report = build(run.plan, run.run_key, "run", run.plan.num_steps)
    assert verify_report(report) == []
    assert report["guarantee"]["num_units"] == 48
    assert words in report["implementation"]["sampling"]
    assert "at most 3 rows of each user" in report["assumptions"][0]
    said = json.dumps(report)
    for wrong in ("One record", "every record", "records in every", "number of records is"):
        assert wrong not in said
    assert "draw of users" in said


@pytest.mark.slow
def test_a_run_of_owners_in_epochs(with_sampling, stop_after, tmp_path):
    options = with_sampling("shuffled")
    whole = dpjax.finetune(**copy.deepcopy(options) | {"output_dir": tmp_path / "whole"})
    assert [row["num_records"] for row in whole.metrics] == [16] * 6
    markdown = (tmp_path / "whole" / "report.md").read_text()
    assert "differential privacy per user, replace one: DP-SGD with shuffled epochs" in markdown
    stop_after(2, **copy.deepcopy(options))
    resumed = dpjax.finetune(**options, resume=True)
    assert [row["loss"] for row in resumed.metrics] == [row["loss"] for row in whole.metrics]


# What one owner moves.


NUM_OWNERS, CLIP_NORM = 6, 0.01


@pytest.fixture(scope="module")
def small(cheap_options, train_file, tmp_path_factory):
    """A run in which every owner is in every batch, and some draw."""
    folder = tmp_path_factory.mktemp("small")
    names = "aaabcccccccddefffffffff"
    path = owned_file(train_file, folder / "train.csv", names)
    changed = copy.deepcopy(cheap_options) | {"output_dir": folder / "run"}
    changed["train_data"] = {"path": str(path), "owner_column": "author"}
    changed["privacy"] |= {"records_per_owner": 3, "delta": 1e-2, "clip_norm": CLIP_NORM}
    changed["training"] |= {"expected_batch_size": NUM_OWNERS, "microbatch_size": 6}
    # Tests change the records of a run that was set up.
    changed["compute"] = {"cache_frozen": "never"}
    return make_run(changed)


class Laboratory:
    """A run, and its steps, compiled once: on its data, and on those without the last owner."""

    def __init__(self, run):
        self.run, self.steps = run, loop._make_steps(run, optax.sgd(0.1))
        fewer = dataclasses.replace(
            run.plan.mechanism, num_units=NUM_OWNERS - 1, expected_batch_size=NUM_OWNERS - 1
        )
        plan = dataclasses.replace(run.plan, mechanism=fewer)
        self.without_last = loop._make_steps(dataclasses.replace(run, plan=plan), optax.sgd(0.1))


@pytest.fixture(scope="module")
def laboratory(small):
    return Laboratory(small)


SLACK = 1e-5


@settings(deadline=None, max_examples=25)
@given(owner=st.integers(0, NUM_OWNERS - 1), seed=st.integers(0, 2**32 - 1), step=st.integers(0, 3))
def test_all_that_an_owner_has_moves_the_sum_by_at_most_c(laboratory, owner, seed, step):
    small, steps = laboratory.run, laboratory.steps
    before, count = flat_sum(small, steps, step)
    assert count == NUM_OWNERS
    # Exchanged for anything: what was there and what is there are at most C each.
    changed, _ = flat_sum(with_other_texts(small, owner, seed), steps, step)
    assert np.linalg.norm(changed - before) <= 2 * CLIP_NORM * (1 + SLACK)
    # Removed. The places of all others stay as they are where it is the last one.
    last = NUM_OWNERS - 1
    present = with_other_texts(small, last, seed)
    rest = np.flatnonzero(small.plan.owners.owner_of != last)
    absent = with_data(
        small, small.plan.train.take(rest), Owners.of(small.plan.owners.owner_of[rest])
    )
    without, count = flat_sum(absent, laboratory.without_last, step)
    assert count == NUM_OWNERS - 1
    with_last, _ = flat_sum(present, steps, step)
    assert np.linalg.norm(with_last - without) <= CLIP_NORM * (1 + SLACK)


def test_single_records_as_units_would_move_it_by_more(small):
    """The property tells a run of owners from one of records."""
    records = dataclasses.replace(
        small.plan,
        owners=None,
        mechanism=DPSGD(
            num_units=len(small.plan.train),
            expected_batch_size=len(small.plan.train),
            noise_multiplier=1.0,
            num_steps=1,
        ),
    )
    run = dataclasses.replace(small, plan=records)
    steps = loop._make_steps(run, optax.sgd(0.1))
    before, _ = flat_sum(run, steps, 0)
    other = with_other_texts(small, 5, 0).plan.train
    changed, _ = flat_sum(with_data(run, other), steps, 0)
    assert np.linalg.norm(changed - before) > 2 * CLIP_NORM


def test_what_an_owner_adds_does_not_depend_on_the_microbatch(laboratory):
    small, steps = laboratory.run, laboratory.steps
    training = dataclasses.replace(small.plan.config.training, microbatch_size=100)
    config = dataclasses.replace(small.plan.config, training=training)
    whole = dataclasses.replace(small, plan=dataclasses.replace(small.plan, config=config))
    for step in range(3):
        first, _ = flat_sum(small, steps, step)
        second, _ = flat_sum(whole, steps, step)
        np.testing.assert_allclose(first, second, atol=1e-6 * CLIP_NORM + 1e-8)


def test_fast_strategies_clip_owners_as_the_definition_does(laboratory):
    run = laboratory.run
    by_definition = PrivateTraining(
        owner_loss(run.plan.task.loss_fn(run.model.graphdef)),
        optax.sgd(0.1),
        run.plan.mechanism,
        dpjax.FlatClipping(CLIP_NORM),
        run.run_key,
        strategy="materialize",
    )
    fast, _ = flat_sum(run, laboratory.steps, 0)
    slow, _ = flat_sum(run, by_definition, 0)
    np.testing.assert_allclose(fast, slow, atol=1e-4 * CLIP_NORM)


@pytest.mark.slow
def test_texts_of_owners_are_learnt(language_options):
    options = language_options("prompt_completion")
    path = options["train_data"]
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps(r | {"who": i % 100}) for i, r in enumerate(records)))
    options["train_data"] = {"path": str(path), "owner_column": "who"}
    options["privacy"] |= {"records_per_owner": 2}
    result = dpjax.finetune(**options)
    losses = [row["loss"] for row in result.metrics]
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert result.privacy["guarantee"]["num_units"] == 100
