"""Clients whose records are no texts with one label: written answers, tags, pairs of answers."""

import json

import pytest
from dpjax_accounting import verify_report

from dpjax.federated import federate
from tests.finetuning.conftest import decoder as decoder
from tests.finetuning.conftest import language_options as language_options
from tests.finetuning.test_preference import write_pairs
from tests.finetuning.test_token_classification import write_words

CLIENTS = {
    "num_clients": 20,
    "cohort_size": 5,
    "num_rounds": 2,
    "local_batch_size": 4,
    "records_per_client": 8,
    "clients_at_once": 2,
}


def check_run(options):
    result = federate(**options)
    report = json.loads((options["output_dir"] / "privacy.json").read_text())
    assert verify_report(report) == []
    assert report["guarantee"]["unit"] == "user" and report["guarantee"]["num_units"] == 20
    assert result.warnings == ()
    told = json.loads((options["output_dir"] / "clients.json").read_text())
    assert told["num_clients"] == len(told["clients"]) == 20
    assert all(client["loss"] is not None for client in told["clients"])
    return told


@pytest.mark.slow
@pytest.mark.parametrize("task", ("causal_lm", "preference"))
def test_clients_have_answers(task, language_options, tmp_path):
    options = language_options("prompt_completion", clients=CLIENTS, tuning="lora")
    options["training"] = {"max_length": 24}
    if task == "preference":
        options |= {
            "task": "preference",
            "train_data": write_pairs(tmp_path / "pairs.jsonl", 80, 0),
            "eval_data": write_pairs(tmp_path / "held_out.jsonl", 20, 1),
        }
    told = check_run(options)
    assert set(told["over_clients"]) >= {"num_records", "loss"}


@pytest.mark.slow
def test_clients_have_tagged_words(options, tmp_path):
    options |= {
        "task": "token_classification",
        "train_data": write_words(tmp_path / "train.jsonl", 80, 0),
        "eval_data": write_words(tmp_path / "eval.jsonl", 20, 1),
        "clients": CLIENTS,
    }
    told = check_run(options)
    # Words have accuracies there, and clients none.
    assert "accuracy" not in told["over_clients"]
