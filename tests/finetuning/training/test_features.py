"""Steps that read what was computed once come to what steps come to that compute everything."""

import copy
import dataclasses
import io
import signal

import jax
import numpy as np
import optax
import pytest
from dpjax_accounting import Ledger
from rich.console import Console
from safetensors.numpy import load_file

import dpjax
from dpjax.finetuning.setup.model.feature_store import FeatureStore
from dpjax.finetuning.tasks.features import FeatureRecord
from dpjax.finetuning.training import loop
from tests.finetuning.training.test_devices import assert_same_weights, on_eight_devices
from tests.support.owned_records import author_of_each, flat_sum, make_run, owned_file
from tests.support.runs import weights

QUIET = Console(quiet=True)
# All steps together must read more records than there are.
STEPS = {"num_steps": 40}


def pair(options):
    """Runs of the same key, with features and without."""
    runs = [make_run(options | {"compute": {"cache_frozen": way}}) for way in ("auto", "never")]
    assert runs[0].plan.features is not None and runs[1].plan.features is None
    return loop.with_features(runs[0], runs[0].model, QUIET), runs[1]


def sums(run, steps=(0, 1)):
    training = loop._make_steps(run, optax.sgd(0.1))
    return [flat_sum(run, training, step) for step in steps]


def assert_same_sums(options):
    cached, uncached = pair(options)
    for (found, count), (expected, expected_count) in zip(
        sums(cached), sums(uncached), strict=True
    ):
        assert count == expected_count > 0
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())
    return cached


@pytest.fixture
def options(cheap_options, tmp_path):
    options = copy.deepcopy(cheap_options) | {"output_dir": tmp_path / "run"}
    options["training"] |= STEPS
    del options["num_layers"]
    return options


def test_a_head_reads_one_vector_of_a_record(options):
    run = assert_same_sums(options)
    (feature,) = run.plan.features.arrays
    assert feature.shape == (16,) and feature.token_axes == ()
    steps = loop._make_steps(run, optax.sgd(0.1))
    batches = [batch for step in (0, 1) for batch, _ in loop._drawn(run, steps, step)]
    for batch in batches:
        # No token is read, and all microbatches have one shape.
        assert isinstance(batch, FeatureRecord)
        assert batch.record.input_ids is None and batch.record.attention_mask is None
        assert batch.features[0].shape == (16, 16)


@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": "last_layers", "num_trained_layers": 1},
        pytest.param(
            {"tuning": "lora", "lora": {"layers_to_transform": (1,), "rank": 2}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["last_layers", "lora"],
)
def test_upper_layers_read_hidden_states(options, changes):
    run = assert_same_sums(options | changes)
    (feature,) = run.plan.features.arrays
    assert feature.shape == (16, 16) and feature.token_axes == ((0, 0),)


@pytest.mark.slow
def test_a_decoder(language_options):
    options = language_options("text", tuning="last_layers", num_trained_layers=1)
    assert_same_sums(options)


def test_owners(options, train_file, tmp_path):
    path = owned_file(train_file, tmp_path / "owned.csv", author_of_each())
    options["train_data"] = {"path": str(path), "owner_column": "author"}
    options["privacy"] |= {"records_per_owner": 3, "delta": 1e-4}
    options["training"] |= {"expected_batch_size": 16, "microbatch_size": 12}
    cached = assert_same_sums(options)
    assert cached.plan.samples_owners


@pytest.mark.parametrize("audit", [{"num_canaries": 40, "most_share": 0.5}, {"hold_out": 0.5}])
def test_an_audited_run(options, audit):
    """Also records that a coin leaves out have features: nothing tells how it fell."""
    options["privacy"] |= {"noise_multiplier": 0.5}
    options["training"] |= {"num_steps": 60}
    cached = assert_same_sums(options | {"audit": audit})
    assert not cached.audited.present.all()
    assert cached.features.num_bytes == len(cached.slots) * 16 * 4


@pytest.mark.slow
def test_a_whole_run_comes_to_the_same_and_a_resumed_one_to_the_same_bits(
    options, stop_after, tmp_path, capsys
):
    options |= {"tuning": "last_layers", "num_trained_layers": 1}
    ledgers = [str(tmp_path / f"{name}.jsonl") for name in ("cached", "never")]
    in_ledger = [{"privacy": options["privacy"] | {"ledger": path}} for path in ledgers]
    cached = dpjax.finetune(**options | in_ledger[0])
    said = " ".join(capsys.readouterr().out.split())
    assert "what the frozen part of the model makes of a record is computed once" in said
    never = {"compute": {"cache_frozen": "never"}, "output_dir": tmp_path / "never"}
    uncached = dpjax.finetune(**options | never | in_ledger[1])
    assert "frozen part" not in capsys.readouterr().out
    assert cached.epsilon == uncached.epsilon
    for found, expected in zip(cached.metrics, uncached.metrics, strict=True):
        assert found["num_records"] == expected["num_records"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    name = "model/model.safetensors"
    found, expected = (load_file(run.output_dir / name) for run in (cached, uncached))
    for tensor, value in expected.items():
        np.testing.assert_allclose(found[tensor], value, rtol=1e-5, atol=1e-5, err_msg=tensor)
    (entry,), (other,) = (list(Ledger(path).entries()) for path in ledgers)
    assert entry.mechanism == other.mechanism and entry.num_steps == other.num_steps == 40
    stopped = options | {"output_dir": tmp_path / "stopped"}
    stop_after(7, **stopped)
    assert not [path for path in (tmp_path / "stopped").rglob("*") if "feature" in path.name]
    resumed = dpjax.finetune(**stopped, resume=True)
    assert weights(resumed.output_dir) == weights(cached.output_dir)


@pytest.mark.slow
def test_eight_devices(options, tmp_path):
    options |= {"tuning": "last_layers", "num_trained_layers": 1}
    options["training"] |= {"num_steps": 8}
    one = dpjax.finetune(**options)
    runs = {"data": {}, "fsdp": {"mesh": "data=2,fsdp=4"}}
    on_devices = [
        options | {"output_dir": tmp_path / name, "compute": compute}
        for name, compute in runs.items()
    ]
    found, shown = on_eight_devices(*on_devices)
    assert shown.count("the frozen part of the model is computed for 240 records") == 2
    for name, result in zip(runs, found, strict=True):
        assert result["epsilon"] == one.epsilon
        assert_same_weights(one.output_dir, tmp_path / name)


def test_a_run_can_be_stopped_while_features_are_computed(options, monkeypatch):
    monkeypatch.setattr(FeatureStore, "put", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(dpjax.RunInterrupted, match="--resume goes on") as stopped:
        dpjax.finetune(**options)
    assert stopped.value.step == 0


def test_features_of_other_records_are_noticed(options):
    """What the comparison above would find, had a row of another record been read."""
    cached, uncached = pair(options)
    store = cached.features
    store.take, original = lambda rows, length: original(rows[::-1], length), store.take
    (found, _), (expected, _) = sums(cached, [0])[0], sums(uncached, [0])[0]
    assert abs(found - expected).max() > 1e-3 * abs(expected).max()


def test_nothing_is_read_of_padding(options):
    """Whatever stands there: zeros in a longer microbatch, or what was computed of padding."""
    changes = {"tuning": "last_layers", "num_trained_layers": 1}
    options["training"] |= {"max_length": 32}
    run, _ = pair(options | changes)
    expected = sums(run, [0])[0][0]
    taken = run.features.take

    def with_rubbish(rows, length):
        (hidden,) = taken(rows, length)
        mask = run.plan.train.attention_mask[rows][:, : hidden.shape[1]]
        return (np.where(mask[..., None], hidden, 1e3).astype(hidden.dtype),)

    run.features.take = with_rubbish
    np.testing.assert_allclose(sums(run, [0])[0][0], expected, rtol=1e-5, atol=1e-6)


def test_progress_is_shown_and_what_it_took(options):
    run = make_run(options)
    console = Console(file=io.StringIO(), width=200)
    loop.with_features(run, run.model, console)
    said = console.file.getvalue()
    assert "the frozen part of the model is computed for 240 records: 0 MB" in said


def test_features_are_the_same_bits_each_time(options):
    run = make_run(options | {"tuning": "last_layers", "num_trained_layers": 1})
    again = [loop.with_features(run, run.model, QUIET).features for _ in range(2)]
    rows = np.arange(240)
    first, second = (store.take(rows, 16)[0] for store in again)
    np.testing.assert_array_equal(first, second)


def test_a_model_that_gives_other_shapes_is_refused(options):
    run, _ = pair(options)
    (feature,) = run.plan.features.arrays
    other = dataclasses.replace(feature, shape=(17,))
    features = dataclasses.replace(run.plan.features, arrays=(other,))
    run = dataclasses.replace(run, plan=dataclasses.replace(run.plan, features=features))
    with pytest.raises(ValueError, match=r"\(16,\).*give compute\.cache_frozen=never"):
        jax.block_until_ready(sums(run, [0]))
