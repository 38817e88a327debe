"""Whole runs with every way of sampling: what is drawn, promised, and said of it."""

import copy
import json

import pytest
from dpjax_accounting import Ledger, mechanism_from_dict, verify_report

import dpjax
from dpjax.finetuning.setup.steps import noise_stddev_of
from dpjax.privatize import RunKey, num_steps_of, sampler_for
from dpjax.training import environment
from tests.support.runs import check, weights

# With the words that report.md has of it.
SAMPLINGS = {
    "poisson": ("add_or_remove_one", "Poisson sampling probability 0.1667"),
    "truncated-poisson": ("zero_out", "truncated Poisson sampling probability 0.1667, at most 78"),
    "fixed-size": ("replace_one", "batches of a fixed size of 40"),
    "random-allocation": ("add_or_remove_one", "random allocation to 6 batches an epoch"),
    "shuffled": ("zero_out", "shuffled epochs in batches of 40"),
    "full-batch": ("add_or_remove_one", "full batches"),
}


@pytest.fixture
def with_sampling(cheap_options, tmp_path):
    """Function from a way of sampling to the options of a cheap run."""

    def make(sampling, **privacy):
        options = copy.deepcopy(cheap_options) | {"output_dir": tmp_path / "run"}
        relation = {"sampling": sampling, "neighboring": SAMPLINGS[sampling][0]}
        options["privacy"] |= relation | privacy
        options["training"]["num_steps"] = 6
        if sampling == "full-batch":
            del options["training"]["expected_batch_size"]
            options["training"]["num_steps"] = 2
        return options

    return make


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param(name, marks=[] if name == "shuffled" else [pytest.mark.slow])
        for name in SAMPLINGS
    ],
)
def test_a_run_draws_and_promises_what_its_mechanism_says(sampling, with_sampling, capsys):
    options = with_sampling(sampling)
    result = dpjax.finetune(**options)
    folder = options["output_dir"]
    report = json.loads((folder / "privacy.json").read_text())
    assert verify_report(report) == [] and report["status"] == "complete"
    mechanism = mechanism_from_dict(report["mechanism"])
    relation, words = SAMPLINGS[sampling]
    assert mechanism.neighboring == relation == report["guarantee"]["neighboring"]
    assert mechanism.num_units == 240 and report["guarantee"]["num_units"] == 240
    assert result.epsilon == mechanism.epsilon(1e-5) == pytest.approx(result.metrics[-1]["epsilon"])
    assert report["steps_completed"] == num_steps_of(mechanism) == len(result.metrics)
    sampler = sampler_for(mechanism, RunKey.from_seed(5))
    sizes = [len(sampler.indices(step)) for step in range(num_steps_of(mechanism))]
    assert [row["num_records"] for row in result.metrics] == sizes
    said = " ".join(capsys.readouterr().out.split())
    markdown = (folder / "report.md").read_text()
    for text in (said, markdown):
        assert words in text and relation.replace("_", " ") in text
        assert ("Poisson" in text) == ("poisson" in sampling)
    size = 240 if sampling == "full-batch" else 40
    assert f"| Expected batch size | {size} |" in markdown
    secrets = " ".join(report["trust"]["kept_secret"])
    assert ("Which records were drawn" in secrets) == (sampling not in ("shuffled", "full-batch"))


@pytest.mark.slow
def test_an_interrupted_run_of_epochs_keeps_its_order(with_sampling, stop_after, tmp_path):
    options = with_sampling("shuffled")
    whole = dpjax.finetune(**options | {"output_dir": tmp_path / "whole"})
    stop_after(2, **copy.deepcopy(options))
    unfinished = json.loads((options["output_dir"] / "privacy.json").read_text())
    assert verify_report(unfinished) == [] and unfinished["status"] == "unfinished"
    # Two of six steps: one epoch is begun, and there is no other.
    assert unfinished["guarantee"]["epsilon"] == whole.epsilon
    resumed = dpjax.finetune(**options, resume=True)
    assert weights(options["output_dir"]) == weights(tmp_path / "whole")
    assert resumed.epsilon == whole.epsilon


def test_another_sampling_or_numpy_is_refused_on_resume(stopped, monkeypatch):
    other = copy.deepcopy(stopped)
    other["privacy"] |= {"sampling": "full-batch"}
    with pytest.raises(ValueError, match="has no meaning"):
        check(other)
    other["privacy"] |= {"sampling": "fixed-size", "neighboring": "zero_out"}
    with pytest.raises(ValueError, match=r"privacy.sampling=poisson, now it is fixed-size"):
        check(other)
    # Permutations are NumPy's: another version may draw other ones.
    version = environment.version
    monkeypatch.setattr(
        environment, "version", lambda name: version(name) + ".1" * (name == "numpy")
    )
    with pytest.raises(ValueError, match=r"started with numpy"):
        check(stopped)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_noise_that_adam_bc_takes_off_is_that_of_the_mechanism(sampling, with_sampling):
    plan = check_free(with_sampling(sampling)).plan
    batch = 240 if sampling == "full-batch" else 40
    assert noise_stddev_of(plan) == pytest.approx(4.0 * 0.5 / batch)


def check_free(options):
    """As `check`, in a folder that is not there yet."""
    from dpjax.finetuning import FinetuneConfig, set_up

    plain = options | {
        name: str(options[name]) for name in ("model", "train_data", "eval_data", "output_dir")
    }
    return set_up(FinetuneConfig.from_options(plain))


@pytest.mark.slow
def test_without_privacy_batches_are_drawn_as_asked(with_sampling):
    options = with_sampling("shuffled")
    options |= {"privacy": {"sampling": "shuffled"}, "non_private": True}
    result = dpjax.finetune(**options)
    assert [row["num_records"] for row in result.metrics] == [40] * 6
    markdown = (options["output_dir"] / "report.md").read_text()
    assert "| Sampling | shuffled epochs in batches of 40 |" in markdown


@pytest.mark.slow
def test_runs_with_different_samplings_add_up_in_a_ledger(with_sampling, tmp_path):
    ledger = str(tmp_path / "data.ledger")
    for number, sampling in enumerate(("shuffled", "truncated-poisson")):
        options = with_sampling(sampling, ledger=ledger)
        options |= {"output_dir": tmp_path / sampling, "seed": number}
        result = dpjax.finetune(**options)
    total = result.privacy["dataset_total"]
    assert total["num_runs"] == 2 and total["epsilon"] > result.epsilon
    assert verify_report(result.privacy, Ledger(ledger)) == []
    # A ledger of runs under one relation takes no other.
    options = with_sampling("poisson", ledger=ledger)
    with pytest.raises(ValueError, match="neighboring='zero_out', the new mechanism has 'add_or"):
        check_free(options)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["full-batch", "random-allocation"])
def test_an_audit_leaves_records_out_where_each_is_drawn_alone(sampling, with_sampling):
    options = with_sampling(sampling, noise_multiplier=0.8) | {"audit": {"hold_out": 0.5}}
    options["training"]["num_steps"] = 3 if sampling == "random-allocation" else 2
    result = dpjax.finetune(**options)
    assert result.warnings == ()
    assert result.audit["claimed_epsilon"] == result.epsilon
    most = sum(row["num_records"] for row in result.metrics[:3])
    assert most == (240 - result.num_left_out) * (2 if sampling == "full-batch" else 1)
