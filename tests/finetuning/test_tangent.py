"""Runs with lora.gauge=tangent: private, resumable, and said in the report."""

import dataclasses

import jax
import numpy as np
import pytest

import dpjax
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.setup.start import _choose_layout
from dpjax.training import choose_mesh
from tests.support.runs import weights

LORA = {"rank": 2, "target_modules": ["query", "dense"], "gauge": "tangent"}


@pytest.fixture
def tangent(options):
    training = options["training"] | {"num_steps": 3, "optimizer": "adam-bc"}
    return options | {"lora": LORA, "training": training, "num_layers": 1}


@pytest.mark.slow
def test_a_resumed_run_comes_to_the_same_model(tangent, stop_after, tmp_path):
    whole = dpjax.finetune(**tangent)
    report = whole.output_dir.joinpath("report.md").read_text()
    assert "on query, dense, in the tangent space" in report
    assert whole.epsilon <= 4.0
    tangent["output_dir"] = tmp_path / "stopped"
    stop_after(2, **tangent)
    dpjax.finetune(**tangent, resume=True)
    assert weights(tangent["output_dir"]) == weights(whole.output_dir)
    factors = tangent | {"lora": LORA | {"gauge": "factors"}, "output_dir": tmp_path / "factors"}
    assert weights(dpjax.finetune(**factors).output_dir) != weights(whole.output_dir)


def test_several_devices_are_refused(tangent, monkeypatch):
    devices = np.array(jax.devices()[:1]).reshape(1, 1, 1)
    mesh = jax.sharding.Mesh(devices, ("data", "fsdp", "tensor"))
    chosen = choose_mesh(None, 8, size_name="size")._replace(mesh=mesh)
    monkeypatch.setattr("dpjax.finetuning.setup.start.choose_mesh", lambda *_, **__: chosen)
    plain = {
        name: str(v) if name.endswith(("data", "model", "dir")) else v
        for name, v in tangent.items()
    }
    config = FinetuneConfig.from_options(plain)
    with pytest.raises(ValueError, match=r"lora.gauge=tangent is for one device, got data=1"):
        _choose_layout(config, 8)
    factors = dataclasses.replace(config, lora=dataclasses.replace(config.lora, gauge="factors"))
    assert _choose_layout(factors, 8)[0] is not None
