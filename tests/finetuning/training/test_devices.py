"""A run on eight devices comes to what one device comes to; bad meshes are refused early."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import dpjax
from dpjax.audit import verify_audit_report

MESHES = {
    "default": {},
    "fsdp": {"mesh": "fsdp=8"},
    "all": {"mesh": "data=2,fsdp=2,tensor=2"},
    "looped": {"mesh": "fsdp=4,tensor=2", "scan_layers": True, "rematerialise": True},
}


def on_eight_devices(*runs):
    """The number of devices is fixed when JAX starts: hence a process of its own."""
    script = Path(__file__).with_name("finetuned_on_devices.py")
    options = json.dumps([{"stop_after": None} | each for each in runs], default=str)
    done = subprocess.run(
        [sys.executable, script], input=options, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


def assert_same_weights(one, other, name="model/model.safetensors"):
    expected, found = load_file(one / name), load_file(other / name)
    assert expected.keys() == found.keys()
    for tensor, value in expected.items():
        np.testing.assert_allclose(found[tensor], value, atol=2e-5, err_msg=tensor)


@pytest.fixture
def tuned(language_options, tmp_path):
    """Function from a way of tuning to options of four steps."""

    def make(tuning, **changes):
        options = language_options("prompt_completion", tuning=tuning, **changes)
        options["training"] |= {"num_steps": 4, "learning_rate": 1e-3}
        return options

    return make


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_every_mesh_comes_to_what_one_device_comes_to(tuned, tmp_path, tuning):
    options = tuned(tuning)
    one = dpjax.finetune(**options)
    # The noise of layers in a loop is drawn for all of them at once.
    in_a_loop = {"output_dir": tmp_path / "loop", "compute": {"scan_layers": True}}
    looped = dpjax.finetune(**options | in_a_loop)
    runs = {
        name: options | {"output_dir": tmp_path / name, "compute": compute}
        for name, compute in MESHES.items()
    }
    found, shown = on_eight_devices(*runs.values())
    assert "8 devices: data=8,fsdp=1,tensor=1" in shown
    for name, result in zip(runs, found, strict=True):
        expected = looped if name == "looped" else one
        assert result["epsilon"] == expected.epsilon
        assert result["perplexity"] == pytest.approx(expected.eval_perplexity, rel=1e-4)
        assert result["written"] == [sample.written for sample in expected.samples]
        assert result["warnings"] == list(expected.warnings)
        assert_same_weights(expected.output_dir, tmp_path / name)
        if tuning == "lora":
            file = "adapter/adapter_model.safetensors"
            assert_same_weights(expected.output_dir, tmp_path / name, file)


@pytest.mark.slow
def test_correlated_noise_comes_to_what_one_device_comes_to(tuned, tmp_path):
    """Also where it was stopped on eight devices and goes on there."""
    pytest.importorskip("jax_privacy", reason="the extra correlated is not installed")
    options = tuned("lora")
    options["privacy"] |= {"noise": "banded", "bands": 3, "neighboring": "zero_out"}
    one = dpjax.finetune(**options)
    mesh = options | {"output_dir": tmp_path / "mesh", "compute": {"mesh": "data=2,fsdp=4"}}
    found, _ = on_eight_devices(mesh | {"stop_after": 2}, mesh | {"resume": True})
    assert found[0] == {"step": 2} and found[1]["epsilon"] == one.epsilon
    assert_same_weights(one.output_dir, tmp_path / "mesh")


@pytest.mark.slow
def test_forward_passes_come_to_what_one_device_comes_to(tuned, tmp_path):
    """With canaries, and where it was stopped on eight devices and goes on there."""
    options = tuned("full", audit={"num_canaries": 32, "kind": "random-tokens", "most_share": 0.5})
    options["training"] |= {"gradient": "zeroth-order", "optimizer": "sgd", "momentum": 0.0}
    one = dpjax.finetune(**options)
    assert verify_audit_report(one.audit) == []
    runs = {"data": {}, "fsdp": {"mesh": "data=2,fsdp=4"}}
    described = [
        options | {"output_dir": tmp_path / name, "compute": compute}
        for name, compute in runs.items()
    ]
    stopped = [
        described[1] | {"output_dir": tmp_path / "stopped", "stop_after": 2},
        described[1] | {"output_dir": tmp_path / "stopped", "resume": True},
    ]
    found, _ = on_eight_devices(*described, *stopped)
    assert found[2] == {"step": 2} and {found[i]["epsilon"] for i in (0, 1, 3)} == {one.epsilon}
    for name in ("data", "fsdp", "stopped"):
        assert_same_weights(one.output_dir, tmp_path / name)
    scores = [
        [row["score"] for row in json.loads((folder / "audit.json").read_text())["canaries"]]
        for folder in (one.output_dir, tmp_path / "data", tmp_path / "fsdp")
    ]
    # Differences of losses, which are about 1e-3 apart.
    np.testing.assert_allclose(scores[1:], [scores[0]] * 2, atol=5e-6)
    # On the same mesh they are the same bits.
    one, other = (
        (tmp_path / name / "model/model.safetensors").read_bytes() for name in ("fsdp", "stopped")
    )
    assert one == other


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(tuned, tmp_path, capsys, monkeypatch):
    """On one device, from a state that eight devices stored; equal up to rounding, and said so."""
    # What else the script says to the compiler; it has been read here already.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    options = tuned("full")
    whole = dpjax.finetune(**options | {"output_dir": tmp_path / "whole"})
    on_mesh = options | {"compute": {"mesh": "data=2,fsdp=4"}}
    found, _ = on_eight_devices(on_mesh | {"stop_after": 2})
    assert found == [{"step": 2}]
    capsys.readouterr()
    resumed = dpjax.finetune(**options | {"resume": True})
    said = capsys.readouterr().out
    assert "started on cpu: 8 × cpu, data=2,fsdp=4,tensor=1 and goes on on cpu: 1 × cpu" in said
    assert "equal up to rounding only" in said
    assert_same_weights(whole.output_dir, resumed.output_dir)


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        ({"mesh": "date=8"}, r"compute\.mesh must name the axes data, fsdp, tensor"),
        ({"mesh": "data=3"}, r"compute\.mesh must use every device, got 'data=3' of 3"),
    ],
)
def test_meshes_that_do_not_fit_are_refused(language_options, compute, words):
    options = language_options("text", compute=compute)
    with pytest.raises(ValueError, match=words):
        dpjax.finetune(**options)
    assert not options["output_dir"].exists()


@pytest.mark.slow
def test_what_does_not_fit_eight_devices_is_refused(language_options):
    """Each says what it saw, and what to do."""
    runs = [
        language_options("text", compute={"mesh": "data=4"}),
        language_options("text", compute={"mesh": "data=8"}, training={"microbatch_size": 12}),
    ]
    said = on_eight_devices(*({"refused": True} | run for run in runs))[0]
    assert "every device, got 'data=4' of 4 where there are 8" in said[0]
    assert "training.microbatch_size must be a multiple of the 8 devices" in said[1]
    assert "got 12. Give 16" in said[1]
