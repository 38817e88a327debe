"""docs/clusters: scripts parse, manifests lead to processes, and what runs on CPUs is run."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import dpjax
from dpjax.training.devices.clusters.detection import find_cluster
from tests.support.processes import free_port

ROOT = Path(__file__).parents[4]
RECIPES = ROOT / "docs" / "clusters"
# One step of two tasks on this machine; the arguments are the command of every task.
SRUN = """#!/bin/bash
set -euo pipefail
[ "$1" = --kill-on-bad-exit=1 ] && shift
export SLURM_JOB_ID=7 SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@"
wait "$first"
"""


def load(name):
    return yaml.safe_load((RECIPES / name).read_text())


def pods(jobset):
    """The Job of a JobSet, and the one container of its pods."""
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and jobset["kind"] == "JobSet"
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"]
    # One pod does not start again alone: the others are gone.
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    assert container["command"][:2] == ["python", "/app/train.py"]
    return replicated["name"], job, container


@pytest.mark.parametrize("script", sorted(RECIPES.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_pods_with_gpus_find_each_other():
    jobset = load("jobset.yaml")
    name, job, container = pods(jobset)
    given = {one["name"]: one for one in container["env"]}
    index = given.pop("JAX_PROCESS_ID")["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    environment = {one: entry["value"] for one, entry in given.items()}
    environment |= {"JAX_PROCESS_ID": "1", "JOB_COMPLETION_INDEX": "1"}
    found = find_cluster(environment | {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert (found.num_processes, found.process_id) == (job["parallelism"], 1)
    whole = jobset["metadata"]["name"]
    assert found.coordinator_address.startswith(f"{whole}-{name}-0-0.{whole}:")


def test_pods_of_a_tpu_slice_find_each_other():
    _, job, container = pods(load("jobset_tpu.yaml"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    topology = job["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    num_pods = job["parallelism"]
    assert num_pods * chips == np.prod([int(side) for side in topology.split("x")])
    hosts = ",".join(f"pod-{i}" for i in range(num_pods))
    environment = {"TPU_WORKER_HOSTNAMES": hosts, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    environment["JOB_COMPLETION_INDEX"] = "1"
    assert find_cluster(environment, on_tpu=True).num_processes == num_pods


def test_the_job_of_kubeflow_has_what_it_needs():
    job = load("trainjob.yaml")
    assert job["apiVersion"] == "trainer.kubeflow.org/v1alpha1" and job["kind"] == "TrainJob"
    assert job["spec"]["runtimeRef"] == {"name": "jax-distributed"}
    trainer = job["spec"]["trainer"]
    assert trainer["numNodes"] == 2 and trainer["command"][:2] == ["python", "/app/train.py"]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(640, 8))
    path = tmp_path_factory.mktemp("records") / "records.npz"
    np.savez(path, x=x, y=x[:, 0] > 0)
    return path


def read(folder):
    """Parameters, ε and devices of a run."""
    report = json.loads((folder / "privacy.json").read_text())
    params = load_file(folder / "params.safetensors")
    return params, report["guarantee"]["epsilon"], report["environment"]["devices"]


@pytest.fixture(scope="module")
def alone(records):
    """The run of one process with a key that is known."""
    spec = importlib.util.spec_from_file_location("train", RECIPES / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = records.with_name("alone")
    module.train(str(records), str(folder), run_key=dpjax.RunKey.from_seed(7))
    return read(folder)


def run(command, home, **variables):
    """Runs a command without what a user has at home, or has set for clusters."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_", "SLURM_", "RAY_")) and "proxy" not in name.lower()
    }
    kept |= {"HOME": str(home), "JAX_PLATFORMS": "cpu"} | variables
    done = subprocess.run(
        command, cwd=RECIPES, env=kept, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


@pytest.mark.slow
def test_the_script_of_slurm_trains_in_two_processes(records, alone, tmp_path):
    """With a stand-in for srun, which sets the variables of a step."""
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    activate = tmp_path / "dpjax/.venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'export PATH="{tmp_path}:{Path(sys.executable).parent}:$PATH"\n')
    for name in ("data", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "data/records.npz").symlink_to(records)
    said = run(["bash", "slurm.sh"], tmp_path, JAX_COORDINATOR_PORT=str(free_port()))
    for number in (0, 1):
        assert f"SLURM: 2 processes, this is number {number} and waits" in said
    params, epsilon, devices = read(tmp_path / "runs/first")
    assert (epsilon, devices) == (alone[1], "2 × cpu") and alone[2] == "1 × cpu"
    assert np.isfinite(params["weight"]).all() and params["weight"].any()


@pytest.mark.slow
@pytest.mark.ray
def test_two_workers_of_ray_come_to_what_one_process_comes_to(records, alone, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    script = Path(__file__).with_name("trains_on_ray.py")
    run_folder = tmp_path / "run"
    # Ray makes sockets there, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as files:
        run(
            [sys.executable, script, files, records, run_folder],
            tmp_path,
            RAY_USAGE_STATS_ENABLED="0",
        )
    params, epsilon, devices = read(run_folder)
    assert (epsilon, devices) == (alone[1], "2 × cpu")
    assert set(params) == {"weight", "bias"}
    for name, value in params.items():
        np.testing.assert_allclose(value, alone[0][name], atol=1e-5)
        assert value.any()
