"""A run that draws and clips single records, with the guarantee for owners of several."""

import copy
import dataclasses
import json

import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD, Ledger, UserLevelDPSGD, verify_report
from hypothesis import given, settings
from hypothesis import strategies as st

import dpjax
from dpjax.data import Owners, Records
from dpjax.finetuning import FinetuneConfig
from dpjax.finetuning.setup.owners import TrainingRecords
from dpjax.finetuning.training import loop
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

AT_MOST = 3
KEPT = sum(min(AT_MOST, count) for count in COUNTS)


@pytest.fixture(scope="module")
def owned(train_file, tmp_path_factory):
    return owned_file(train_file, tmp_path_factory.mktemp("owned") / "train.csv", author_of_each())


@pytest.fixture
def options(cheap_options, owned, tmp_path):
    changed = copy.deepcopy(cheap_options) | {"output_dir": tmp_path / "run"}
    changed["train_data"] = {"path": str(owned), "owner_column": "author"}
    changed["privacy"] |= {
        "records_per_owner": AT_MOST,
        "owner_sampling": "records",
        "delta": 1e-4,
        "ledger": str(tmp_path / "ledger.jsonl"),
    }
    changed["training"] |= {"expected_batch_size": 16, "microbatch_size": 12}
    return changed


def test_epsilon_report_page_and_ledger_are_of_owners_with_so_many_records(options, capsys):
    result = dpjax.finetune(**options)
    said = " ".join(capsys.readouterr().out.split())
    assert f"an owner: {len(COUNTS)} of them, with 1 to 3 records" in said
    assert f"{sum(COUNTS) - KEPT} were left out of owners with more than 3" in said
    assert "differential privacy per user" in said
    mechanism = UserLevelDPSGD(
        num_records=KEPT,
        expected_batch_size=16,
        noise_multiplier=4.0,
        num_steps=4,
        records_per_user=AT_MOST,
    )
    assert result.epsilon == mechanism.epsilon(1e-4)
    folder = options["output_dir"]
    report = json.loads((folder / "privacy.json").read_text())
    assert report["mechanism"] == mechanism.to_dict()
    assert report["guarantee"]["unit"] == "user"
    assert "'author'" in report["assumptions"][0]
    assert "at most 3 rows in training" in report["assumptions"][0]
    assert report["assumptions"][1] == "Neighbouring data sets differ by one user added or removed."
    assert "every record is drawn" in report["implementation"]["sampling"]
    assert "Which records were drawn in which step." in report["trust"]["kept_secret"]
    words = json.dumps(report)
    assert "One record is" not in words
    assert "user is drawn" not in words
    assert "at most 3 rows in training" in (folder / "privacy.html").read_text()
    markdown = (folder / "report.md").read_text()
    assert f"| Training records | {KEPT}, " in markdown
    assert f"| Owners | {len(COUNTS)}; batches are of single records" in markdown
    # The ledger knows the data by everything that owners have: runs that draw owners share it.
    others = make_run(
        options
        | {
            "output_dir": folder.parent / "again",
            "seed": None,
            "privacy": options["privacy"] | {"owner_sampling": "owners", "records_per_owner": 2},
        }
    )
    assert others.plan.dataset.num_units == len(COUNTS)
    ledger = Ledger.open(options["privacy"]["ledger"], others.plan.dataset)
    assert verify_report(report, ledger) == []
    assert report["dataset_total"]["epsilon"] == pytest.approx(result.epsilon)


@pytest.mark.slow
def test_a_run_is_resumed_bit_equal_and_only_in_the_same_way(options, stop_after, tmp_path):
    del options["privacy"]["ledger"]
    whole = dpjax.finetune(**copy.deepcopy(options) | {"output_dir": tmp_path / "whole"})
    stop_after(2, **copy.deepcopy(options))
    for changed, words in (({"records_per_owner": 2}, "per_owner=3"), ({}, "owner_sampling=")):
        privacy = options["privacy"] | {"owner_sampling": "records" if changed else "owners"}
        with pytest.raises(ValueError, match=f"cannot resume.*{words}"):
            dpjax.finetune(**copy.deepcopy(options) | {"privacy": privacy | changed}, resume=True)
    resumed = dpjax.finetune(**options, resume=True)
    assert [row["loss"] for row in resumed.metrics] == [row["loss"] for row in whole.metrics]


def test_who_owns_what_is_part_of_what_a_run_resumes_with(options):
    plan = make_run(options).plan
    names = [f"{owner}" for owner in plan.owners.owner_of]
    other = dataclasses.replace(plan, owners=Owners.of(["x", *names[1:]]))
    assert other.fingerprint() != plan.fingerprint()


def test_a_plan_is_of_records(options):
    del options["privacy"]["ledger"], options["output_dir"], options["model"], options["seed"]
    forecast = dpjax.plan(**options)
    assert forecast.num_units == KEPT
    assert forecast.asked.epsilon == make_run_mechanism(16).epsilon(1e-4)
    assert forecast.full_batch.epsilon == make_run_mechanism(KEPT).epsilon(1e-4)


def make_run_mechanism(batch):
    return UserLevelDPSGD(
        num_records=KEPT,
        expected_batch_size=batch,
        noise_multiplier=4.0,
        num_steps=4,
        records_per_user=AT_MOST,
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"train_data.owner_column": None, "privacy.records_per_owner": 1},
            "owner_sampling=records has no meaning without an owner",
        ),
        (
            {"privacy.sampling": "fixed-size", "privacy.neighboring": "zero_out"},
            "owner_sampling=records needs privacy.sampling=poisson",
        ),
        ({"training.expected_batch_size": KEPT + 1}, f"more than the {KEPT} training records"),
        (
            {"audit": {"num_canaries": 100}, "privacy.ledger": None},
            "audit.num_canaries=100 with privacy.owner_sampling=records",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, changes, words):
    change(options, changes)
    with pytest.raises(ValueError, match=words):
        make_run(options)
    assert not options["output_dir"].exists()


# What one owner moves.


def records_of(names):
    return Records([f"note {i}" for i in range(len(names))], ["0"] * len(names), owners=list(names))


@settings(deadline=None, max_examples=100)
@given(
    names=st.lists(st.sampled_from("abcd"), min_size=4, max_size=40),
    others=st.lists(st.text(max_size=2), max_size=12),
    at_most=st.integers(1, 4),
)
def test_all_that_an_owner_has_changes_that_many_records(names, others, at_most):
    """Owner z is anybody: with any records, in any places, or not there."""
    config = FinetuneConfig.from_options(
        {name: "x" for name in ("model", "eval_data", "output_dir")}
        | {"train_data": {"path": "x.csv", "owner_column": "who"}}
        | {
            "privacy": {
                "noise_multiplier": 1.0,
                "owner_sampling": "records",
                "records_per_owner": at_most,
            }
        }
    )
    names += ["a", "b"]
    before = records_of(names)
    used = TrainingRecords.of(before, config).used
    texts, mixed = list(before.texts), list(names)
    for place, text in enumerate(others):
        at = min(3 * place, len(texts))
        texts.insert(at, text)
        mixed.insert(at, "z")
    present = TrainingRecords.of(Records(texts, ["0"] * len(texts), owners=mixed), config)
    is_own = [name == "z" for name in present.used.owners]
    assert sum(is_own) == min(at_most, len(others))
    assert [text for text, own in zip(present.used.texts, is_own, strict=True) if not own] == (
        used.texts
    )
    assert all(count <= at_most for count in present.owners.counts)


CLIP_NORM, K = 0.01, 3
SLACK = 1e-5


@pytest.fixture(scope="module")
def small(cheap_options, train_file, tmp_path_factory):
    """A run in which every record is in every batch, and two owners have some left out."""
    folder = tmp_path_factory.mktemp("small")
    path = owned_file(train_file, folder / "train.csv", "aaabcccccccddefffffffff")
    changed = copy.deepcopy(cheap_options) | {"output_dir": folder / "run"}
    changed["train_data"] = {"path": str(path), "owner_column": "author"}
    changed["privacy"] |= {
        "records_per_owner": K,
        "owner_sampling": "records",
        "delta": 1e-2,
        "clip_norm": CLIP_NORM,
    }
    changed["training"] |= {"expected_batch_size": 13, "microbatch_size": 6}
    # Tests change the records of a run that was set up.
    changed["compute"] = {"cache_frozen": "never"}
    return make_run(changed)


@pytest.fixture(scope="module")
def steps(small):
    return loop._make_steps(small, optax.sgd(0.1))


@pytest.fixture(scope="module")
def steps_without_last(small):
    mechanism = dataclasses.replace(
        small.plan.mechanism, num_records=13 - K, expected_batch_size=13 - K
    )
    plan = dataclasses.replace(small.plan, mechanism=mechanism)
    return loop._make_steps(dataclasses.replace(small, plan=plan), optax.sgd(0.1))


@settings(deadline=None, max_examples=20)
@given(owner=st.integers(0, 5), seed=st.integers(0, 2**32 - 1), step=st.integers(0, 3))
def test_all_that_an_owner_has_moves_the_sum_by_at_most_k_clip_norms(
    small, steps, steps_without_last, owner, seed, step
):
    before, count = flat_sum(small, steps, step)
    assert count == 13
    changed, _ = flat_sum(with_other_texts(small, owner, seed), steps, step)
    assert np.linalg.norm(changed - before) <= 2 * K * CLIP_NORM * (1 + SLACK)
    present = with_other_texts(small, 5, seed)
    rest = np.flatnonzero(small.plan.owners.owner_of != 5)
    owners = Owners.of(small.plan.owners.owner_of[rest])
    absent = with_data(small, small.plan.train.take(rest), owners)
    without, count = flat_sum(absent, steps_without_last, step)
    assert count == 13 - K
    with_last, _ = flat_sum(present, steps, step)
    # Of K equal records that are clipped, the sum is K clip norms long: the bound is attained.
    moved = np.linalg.norm(with_last - without)
    assert moved <= K * CLIP_NORM * (1 + SLACK)


def test_each_record_is_clipped_by_itself(small, steps, steps_without_last):
    """Owners clipped as one, or a cap that is not kept, would give another length."""
    present = with_other_texts(small, 5, 0)
    rest = np.flatnonzero(small.plan.owners.owner_of != 5)
    owners = Owners.of(small.plan.owners.owner_of[rest])
    absent = with_data(small, small.plan.train.take(rest), owners)
    with_last, without = flat_sum(present, steps, 0)[0], flat_sum(absent, steps_without_last, 0)[0]
    # The same text, with labels that may differ.
    assert np.linalg.norm(with_last - without) > CLIP_NORM * (1 + SLACK)


def test_the_epsilon_is_not_that_of_a_record(small):
    plan = small.plan
    record = DPSGD(
        num_units=13,
        expected_batch_size=13,
        noise_multiplier=plan.mechanism.noise_multiplier,
        num_steps=plan.num_steps,
    )
    assert plan.mechanism.epsilon(1e-2) > 2 * record.epsilon(1e-2)
