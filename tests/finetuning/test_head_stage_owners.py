"""A run of two stages whose units are owners."""

import copy

import pytest
from dpjax_accounting import verify_report

import dpjax
from tests.finetuning.test_head_stage import LADDER, STAGES
from tests.support.owned_records import author_of_each, make_run, owned_file


@pytest.fixture
def owned(cheap_options, train_file, tmp_path):
    options = copy.deepcopy(cheap_options) | copy.deepcopy(LADDER)
    options["training"] |= STAGES
    options["output_dir"] = tmp_path / "run"
    path = owned_file(train_file, tmp_path / "owned.csv", author_of_each())
    options["train_data"] = {"path": str(path), "owner_column": "author"}
    options["privacy"] |= {"records_per_owner": 3, "delta": 1e-4}
    options["training"] |= {"expected_batch_size": 16, "microbatch_size": 12}
    return options


@pytest.mark.slow
@pytest.mark.parametrize("owner_sampling", ["owners", "records"])
def test_owners(owned, owner_sampling):
    owned["privacy"] |= {"owner_sampling": owner_sampling}
    result = dpjax.finetune(**owned)
    assert result.privacy["mechanism"]["unit"] == "user"
    assert [row["step"] for row in result.metrics] == list(range(1, 7))
    assert verify_report(result.privacy) == []


def test_batches_of_owners_have_one_size(owned):
    owned["training"] |= {"head_batch_size": 20}
    with pytest.raises(ValueError, match="leave out head_batch_size"):
        make_run(owned)


@pytest.mark.parametrize("owner_sampling", ["owners", "records"])
def test_the_first_stage_of_owners_leaves_steps_to_the_second(owned, owner_sampling):
    owned["privacy"] |= {"owner_sampling": owner_sampling}
    owned["training"] |= {"num_steps": None, "num_epochs": 1.0, "head_steps": 10}
    with pytest.raises(ValueError, match=r"head_steps=10 must be below the \d steps of the run"):
        make_run(owned)
