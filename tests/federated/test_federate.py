"""A simulated federated run: what it writes and promises, what it refuses, how it goes on."""

import copy
import json
import signal

import jax
import numpy as np
import pytest
from dpjax_accounting import Ledger, UserSampledDPSGD, verify_report

from dpjax.federated import FederatedConfig, dirichlet_partition, federate, set_up_federated
from dpjax.federated.rounds import ClientRounds
from dpjax.finetuning import RunInterrupted
from dpjax.finetuning.training import loop
from tests.support.owned_records import owned_file


def prepared(options):
    paths = {name: str(options[name]) for name in ("model", "output_dir")}
    return set_up_federated(FederatedConfig.from_options(options | paths))


def test_the_guarantee_is_for_a_client(options, capsys, train_file):
    ledger_path = options["output_dir"].parent / "ledger.jsonl"
    options["privacy"]["ledger"] = str(ledger_path)
    dataset = prepared(options).plan.dataset
    result = federate(**options)
    said = " ".join(capsys.readouterr().out.split())
    assert "DP-FedAvg with Poisson" in said
    folder = options["output_dir"]
    report = json.loads((folder / "privacy.json").read_text())
    labels = [line.rpartition(",")[2] for line in train_file.read_text().splitlines()[1:]]
    dealt = dirichlet_partition(labels, num_clients=40, alpha=0.5)
    mechanism = UserSampledDPSGD(
        num_units=len(set(dealt)),
        expected_batch_size=8,
        noise_multiplier=4.0,
        num_steps=4,
        records_per_user=8,
    )
    assert result.epsilon == mechanism.epsilon(1e-4)
    assert report["guarantee"]["unit"] == "user"
    ledger = Ledger.open(ledger_path, dataset)
    assert verify_report(report, ledger) == []
    words = json.dumps(report, ensure_ascii=False)
    assert "One user is one simulated client" in words
    assert "The update of each client that was drawn is clipped as one" in words
    assert report["data_uses"][0]["use"] == "Updates of the clients"
    assert any("clients.json" in secret for secret in report["trust"]["kept_secret"])
    assert "Results of each client" in [use["use"] for use in report["data_uses"]]
    assert "gradient of each user" not in words and "clipped gradients" not in words
    config = json.loads((folder / "config.json").read_text())
    assert config["clients"]["dirichlet_alpha"] == 0.5
    assert config["clients"]["partition_seed"] == 0
    told = json.loads((folder / "clients.json").read_text())
    assert told["warning"].startswith("Private")
    assert sum(client["num_records"] for client in told["clients"]) == 240
    assert told["over_clients"]["accuracy"]["min"] <= told["over_clients"]["accuracy"]["median"]
    markdown = (folder / "report.md").read_text()
    assert "Accuracy of a client on its own records (private)" in markdown
    assert "| Clients | the rows of the training file dealt out to 40 clients by labels" in markdown
    assert not (folder / "private").exists()


def sum_of_round(run, step):
    """What is released of a round before noise, and the clients in it."""
    steps = loop._make_steps(run, None)
    total, params = steps.begin(run.model.trainable, step)
    for batch, mask in loop._batches(run, steps, step):
        total, params = steps.add(total, params, batch, mask, run.model.frozen)
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(total.grads)]
    return np.concatenate(leaves).astype(np.float64), int(total.num_records)


@pytest.mark.slow
def test_chunks_and_padding_change_nothing(options):
    sums = []
    options["compute"] = {"cache_frozen": "never"}
    for changes in ({}, {"clients_at_once": 1}, {"clients_at_once": 40}):
        run = prepared(options | {"clients": options["clients"] | changes})
        sums.append(sum_of_round(run, 0))
    for found, count in sums[1:]:
        assert count == sums[0][1]
        np.testing.assert_allclose(found, sums[0][0], atol=1e-6)


@pytest.mark.slow
def test_a_run_is_resumed_equal_and_only_with_the_same_clients(options, tmp_path):
    whole = federate(**copy.deepcopy(options) | {"output_dir": tmp_path / "whole"})
    update = loop.TrainingProgress.update

    def stop(progress, done, *args):
        update(progress, done, *args)
        if done == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunInterrupted):
        patch.setattr(loop.TrainingProgress, "update", stop)
        federate(**copy.deepcopy(options))
    for changes in ({"partition_seed": 1}, {"local_epochs": 2}):
        ((name, _),) = changes.items()
        other = copy.deepcopy(options)
        other["clients"] |= changes
        with pytest.raises(ValueError, match=f"cannot resume.*clients.{name}"):
            federate(**other, resume=True)
    resumed = federate(**options, resume=True)
    assert [row["loss"] for row in resumed.metrics] == [row["loss"] for row in whole.metrics]
    first, second = (
        (folder / "model" / "model.safetensors").read_bytes()
        for folder in (tmp_path / "whole", options["output_dir"])
    )
    assert first == second


@pytest.mark.slow
def test_adapters_are_trained_with_one_a_for_all(options):
    options |= {"tuning": "lora", "lora": {"rank": 2}, "server": {"optimizer": "fedadam"}}
    options["clients"]["num_rounds"] = 2
    names = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(prepared(options).model.trainable)
    ]
    assert any("lora_b" in name for name in names)
    assert not any("lora_a" in name for name in names)
    result = federate(**options)
    assert result.epsilon is not None
    assert (options["output_dir"] / "adapter").exists()


@pytest.mark.slow
def test_clients_learn_without_noise(options):
    options["clients"] = {
        "num_clients": 24,
        "cohort_size": 12,
        "num_rounds": 30,
        "local_epochs": 2,
        "local_batch_size": 4,
        "records_per_client": 12,
        "clients_at_once": 12,
    }
    options |= {"privacy": {}, "non_private": True, "server": {"optimizer": "fedadam"}}
    options |= {"tuning": "lora", "lora": {"rank": 4}}
    result = federate(**options)
    assert result.eval_accuracy > 0.7
    losses = [row["loss"] for row in result.metrics]
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


@pytest.mark.slow
def test_a_canary_is_a_client(options):
    options["audit"] = {"num_canaries": 40, "most_share": 0.5}
    options["privacy"]["noise_multiplier"] = 0.5
    options["clients"] |= {"cohort_size": 16, "num_rounds": 20}
    run = prepared(options)
    num_clients = len(run.plan.owners)
    assert run.plan.num_units == num_clients + 20
    assert len(run.audited.owners) == num_clients + 40
    result = federate(**options)
    assert any(
        "Each canary is the only record of an owner" in note for note in result.audit["notes"]
    )


def test_a_column_names_clients(options, train_file, tmp_path):
    names = [f"phone {i % 30}" for i in range(240)]
    data = owned_file(train_file, tmp_path / "owned.csv", names)
    options["train_data"] = str(data)
    options["clients"] = {"column": "author", "cohort_size": 8, "num_rounds": 2}
    run = prepared(options)
    assert run.plan.mechanism.num_units == 30
    assert "column 'author'" in run.plan.owner_training.who_is_a_user()
    options["clients"]["cohort_size"] = 31
    with pytest.raises(ValueError, match=r"clients\.cohort_size=31 is more than the 30 clients"):
        prepared(options)
    owned_file(train_file, tmp_path / "owned.csv", ["all"] * 240)
    with pytest.raises(ValueError, match=r"the same value in clients\.column='author'"):
        prepared(options)


@pytest.mark.parametrize(
    ("changes", "words"),
    (
        ({"clients": {}}, "give either clients.column"),
        ({"clients": {"column": "author", "num_clients": 5}}, "got both"),
        ({"clients": {"column": "author", "partition_seed": 5}}, "leave out one of them"),
        ({"clients": {"num_clients": 1}}, "clients.num_clients must be at least 2, got 1"),
        ({"server": {"optimizer": "fedadam", "momentum": 0.9}}, "is for server.optimizer=fedavg"),
        ({"lora": {"dropout": 0.1}}, "lora.dropout=0.1"),
        ({"lora": {"gauge": "tangent", "freeze_a": False}}, "lora.gauge=tangent"),
        ({"task": "causal_lm"}, "task=causal_lm has none of"),
        ({"audit": {"hold_out": 0.5}}, "audit.hold_out"),
        ({"train_data": {"path": "x", "owner_column": "a"}}, "must be given as clients.column"),
        ({"privacy": {}}, "give privacy.target_epsilon"),
        ({"privacy": {"noise_multiplier": 0.05}}, "multipliers below 0.1 are not accounted for"),
    ),
)
def test_what_does_not_fit_is_refused(options, changes, words):
    with pytest.raises(ValueError, match=words):
        prepared(options | changes)


def test_misspelt_options_are_refused_with_the_nearest(options):
    options["clients"]["local_epoch"] = 2
    with pytest.raises(TypeError, match=r"clients.local_epoch.*clients.local_epochs"):
        prepared(options)


def test_few_shapes_are_compiled(options):
    run = prepared(options)
    rounds = run.plan.owner_training
    assert isinstance(rounds, ClientRounds)
    assert rounds.sizes(np.arange(1, 9)).tolist() == [1] * 4 + [2] * 4
