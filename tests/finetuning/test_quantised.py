"""Runs on a quantised base: private, resumable, reported, and refused where it does not fit."""

import json

import jax
import numpy as np
import pytest

import dpjax
from dpjax.finetuning.config import Compute, FinetuneConfig
from dpjax.finetuning.setup.start import _choose_layout
from dpjax.models import Loading, load_adapter, load_classifier
from dpjax.training import choose_mesh
from tests.support.runs import check

LORA = {"rank": 2, "target_modules": ["query", "dense"]}


@pytest.fixture
def quantised(cheap_options, tmp_path):
    changes = {"tuning": "lora", "num_layers": None, "lora": LORA, "output_dir": tmp_path / "run"}
    return cheap_options | changes | {"compute": {"quantise": "nf4"}}


def plain(options):
    return {
        name: str(value) if name.endswith(("data", "model", "dir")) else value
        for name, value in options.items()
    }


@pytest.mark.slow
def test_a_run_reports_its_base_and_writes_a_model_of_rounded_weights(quantised):
    result = dpjax.finetune(**quantised)
    privacy = json.loads((result.output_dir / "privacy.json").read_text())
    assert privacy["run"]["trained"].endswith("; its frozen linear layers were held as nf4")
    uses = {use["use"]: use["status"] for use in privacy["data_uses"]}
    assert uses["Rounding of the frozen layers"] == "public data"
    assert not result.warnings
    key, names = jax.random.key(0), ("bad", "good")
    options = {"label_names": names, "key": key}
    merged = load_classifier(result.output_dir / "model", **options)
    ids, mask = np.arange(5, 25, dtype=np.int32).reshape(2, 10), np.ones((2, 10), bool)
    base = load_classifier(quantised["model"], **options, loading=Loading(quantise="nf4"))
    load_adapter(base, result.output_dir / "adapter")
    np.testing.assert_allclose(merged(ids, mask), base(ids, mask), atol=1e-4)


@pytest.mark.slow
def test_a_resumed_run_keeps_to_its_base(quantised, stop_after):
    stop_after(2, **quantised)
    resumed = quantised | {"resume": True}
    for other in ("int8", "none"):
        with pytest.raises(ValueError, match=rf"compute.quantise=nf4, now it is {other}"):
            check(resumed | {"compute": {"quantise": other}})
    assert dpjax.finetune(**resumed).epsilon > 0


def test_a_plan_knows_how_the_base_is_held(quantised):
    options = {name: value for name, value in quantised.items() if name != "compute"}
    forecasts = [
        dpjax.plan(**plain(options), compute={"quantise": quantise}, batch_sizes=[40]).model
        for quantise in ("none", "nf4")
    ]
    full, held = forecasts
    assert (full.num_trained, full.num_frozen) == (held.num_trained, held.num_frozen)
    assert full.memory.frozen > held.memory.frozen


@pytest.mark.parametrize("tuning", ["full", "bias", "last_layers"])
def test_other_tunings_are_refused(quantised, tuning):
    layers = {"num_trained_layers": 1} if tuning == "last_layers" else {}
    options = plain(quantised) | {"tuning": tuning, "lora": {}} | layers
    with pytest.raises(ValueError, match=rf"compute.quantise=nf4 is for .*tuning={tuning} trains"):
        FinetuneConfig.from_options(options)


def test_a_misspelt_value_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"compute.quantise .*Did you mean 'nf4'"):
        Compute(quantise="nf")


def test_several_devices_are_refused(quantised, monkeypatch):
    devices = np.array(jax.devices()[:1]).reshape(1, 1, 1)
    mesh = jax.sharding.Mesh(devices, ("data", "fsdp", "tensor"))
    chosen = choose_mesh(None, 8, size_name="size")._replace(mesh=mesh)
    monkeypatch.setattr("dpjax.finetuning.setup.start.choose_mesh", lambda *_, **__: chosen)
    config = FinetuneConfig.from_options(plain(quantised))
    with pytest.raises(ValueError, match=r"compute.quantise=nf4 is for one device, got data=1"):
        _choose_layout(config, 8)
