"""What a run does before anything else."""

import jax
import pytest

import dpjax

PROCESSES = {
    "JAX_COORDINATOR_ADDRESS": "localhost:1",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}


def test_processes_are_joined_before_files_are_looked_at(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: calls.append(options))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    for name, value in PROCESSES.items():
        monkeypatch.setenv(name, value)
    # There is no model and no data.
    options = {"model": str(tmp_path / "none"), "train_data": "none.csv", "eval_data": "none.csv"}
    options |= {"output_dir": str(tmp_path / "run"), "privacy": {"target_epsilon": 3.0}}
    with pytest.raises(FileNotFoundError):
        dpjax.finetune(**options, compute={"distributed": "off"})
    assert calls == []
    with pytest.raises(FileNotFoundError):
        dpjax.finetune(**options)
    assert [call["process_id"] for call in calls] == [1]
