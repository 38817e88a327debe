"""An audit of a run that protects owners: each canary is an owner, and has a coin."""

import copy
import json

import numpy as np
import optax
import pytest

import dpjax
from dpjax.audit import verify_audit_report
from dpjax.finetuning.training import loop
from dpjax.privatize import sampler_for
from tests.support.owned_records import COUNTS, author_of_each, make_run, owned_file


@pytest.fixture
def run(cheap_options, train_file, tmp_path):
    path = owned_file(train_file, tmp_path / "train.csv", author_of_each())
    options = copy.deepcopy(cheap_options) | {"output_dir": tmp_path / "run"}
    options["train_data"] = {"path": str(path), "owner_column": "author"}
    options["privacy"] |= {"noise_multiplier": 0.5, "records_per_owner": 3, "delta": 1e-4}
    options["training"] |= {"expected_batch_size": 16, "microbatch_size": 12, "num_steps": 20}
    return make_run(options | {"audit": {"num_canaries": 40, "most_share": 0.5}})


def test_a_canary_is_an_owner_whom_a_coin_puts_into_training(run):
    plan, audited = run.plan, run.audited
    # Half of the canaries count, whatever the coins say.
    assert (plan.num_units, plan.mechanism.num_units) == (len(COUNTS) + 20, len(COUNTS) + 20)
    assert plan.mechanism.unit == "user"
    assert len(audited.owners) == len(audited.present) == len(COUNTS) + 40
    assert len(audited.slots) == sum(COUNTS) + 40
    assert audited.owners.counts.tolist() == [*COUNTS, *[1] * 40]
    np.testing.assert_array_equal(audited.present, [*[True] * len(COUNTS), *audited.coins.included])
    sampler = sampler_for(plan.mechanism, run.run_key, audited.present)
    steps = loop._make_steps(run, optax.sgd(0.1))
    canaries = {tuple(ids[ids > 0]): i for i, ids in enumerate(audited.encoded.input_ids)}
    assert len(canaries) == 40
    drawn = set()
    for step in range(plan.num_steps):
        expected, count = sampler.indices(step), 0
        for batch, mask in loop._drawn(run, steps, step):
            count += mask.sum()
            ids = np.asarray(batch["examples"].input_ids)[mask]
            records = np.asarray(batch["mask"])[mask]
            for unit, is_record in zip(ids, records, strict=True):
                found = [canaries.get(tuple(row[row > 0])) for row in unit[is_record]]
                # A canary is alone in its unit: nobody's record is beside it.
                assert found == [None] * len(found) or len(found) == 1
                drawn |= {each for each in found if each is not None}
        assert count == len(expected)
    included = set(np.flatnonzero(audited.coins.included).tolist())
    assert drawn <= included
    assert len(drawn) > 0.9 * len(included)
    # The attack in report.md is on the records that somebody wrote.
    assert run.trained_records is plan.train


@pytest.mark.slow
def test_a_run_of_owners_without_privacy_is_caught(language_options, tmp_path, capsys):
    options = language_options("text")
    path = options["train_data"]
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps(r | {"who": i // 2}) for i, r in enumerate(records)))
    options["train_data"] = {"path": str(path), "owner_column": "who"}
    options["training"] |= {"num_steps": 60, "expected_batch_size": 60, "max_length": 48}
    options |= {"privacy": {"records_per_owner": 2}, "non_private": True}
    options |= {"audit": {"num_canaries": 24, "kind": "random-tokens", "most_share": 0.5}}
    result = dpjax.finetune(**options)
    assert "24 canaries, each of an owner who has nothing else" in " ".join(
        capsys.readouterr().out.split()
    )
    assert verify_audit_report(result.audit) == []
    assert result.audit["certified"]["epsilon"] > 0.5
    assert any("the only record of an owner" in note for note in result.audit["notes"])
