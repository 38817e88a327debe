"""Which cluster a process belongs to: environment variables in, processes out; no device."""

import http.server
import threading

import pytest

from dpjax.training.devices.clusters import detection
from dpjax.training.devices.clusters.detection import Cluster, find_cluster, given_cluster

GIVEN = {
    "JAX_COORDINATOR_ADDRESS": "node1:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[1-4]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
OLD_MPI = MPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}


def find(environment, *, on_tpu=False, metadata=None, packages=()):
    metadata = metadata or {}
    return find_cluster(
        environment,
        on_tpu=on_tpu,
        ask_metadata=metadata.get,
        has_package=lambda name: name in packages,
    )


def test_variables_of_jax_say_it_all_and_come_first():
    found = Cluster("the address that was given", "deactivate", 4, 3, "node1:1234")
    assert find(GIVEN) == find(GIVEN | SLURM | OLD_MPI | POD) == found
    assert given_cluster("node1:1234", 4, 3) == found


def test_slurm_is_a_step_of_several_tasks():
    assert find(SLURM) == Cluster("SLURM", "slurm", 4, 2)
    one_each = SLURM | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "4"}
    assert find(one_each) == Cluster("SLURM", "slurm", 4, 2, all_local_devices=True)
    assert not find(one_each | {"SLURM_STEP_NUM_NODES": "2"}).all_local_devices


def test_an_interactive_shell_of_slurm_waits_for_nobody():
    # salloc --ntasks=4 opens a step of one task, whose variables speak of the job's four.
    assert find(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert find(SLURM | {"SLURM_NTASKS": "1"}) is None
    # The script of sbatch is in no step.
    assert find({name: SLURM[name] for name in SLURM if name != "SLURM_STEP_NODELIST"}) is None


def test_open_mpi_of_both_kinds():
    assert find(OLD_MPI) == Cluster("Open MPI", "ompi", 4, 1)
    assert find(MPI, packages=["mpi4py"]) == Cluster("Open MPI", "mpi4py", 4, 1)
    alone = find(OLD_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    assert alone.all_local_devices
    assert find(MPI | {"OMPI_COMM_WORLD_SIZE": "1"}) is None


def test_a_tpu_pod_on_kubernetes():
    hosts = {"TPU_WORKER_HOSTNAMES": "a,b,c,d"}
    assert find(hosts, on_tpu=True) == Cluster("TPU pod", "gketpu", 4)
    two_slices = hosts | {"MEGASCALE_NUM_SLICES": "2"}
    assert find(two_slices | POD, on_tpu=True) == Cluster("TPU pod", "gketpu", 8)
    assert find(POD | {"TPU_WORKER_HOSTNAMES": "localhost"}, on_tpu=True) is None
    assert find(hosts, on_tpu=False) is None


def test_a_tpu_pod_of_virtual_machines():
    described = {"worker-network-endpoints": "a:1:10.0.0.1,b:2:10.0.0.2", "tpu-env": "TYPE: 'v4'"}
    assert find({}, on_tpu=True, metadata=described) == Cluster("TPU pod", "gcetpu", 2)
    described["tpu-env"] = "TYPE: 'v4'\nMEGASCALE_NUM_SLICES: '3'\n"
    assert find({}, on_tpu=True, metadata=described).num_processes == 6
    one = {"worker-network-endpoints": "a"}
    assert find({}, on_tpu=True, metadata=one) is None
    # Not in Google Cloud, or told not to ask.
    assert find({}, on_tpu=True) is None
    assert find({"TPU_SKIP_MDS_QUERY": "1"}, on_tpu=True, metadata=described) is None
    assert find({}, on_tpu=False, metadata=described) is None


def test_a_metadata_server_is_asked_as_google_wants_it(monkeypatch):
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path == "/tpu-env" and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(b"TYPE: 'v4'")

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(detection, "_METADATA", f"http://127.0.0.1:{server.server_port}/")
        assert detection.ask_google("tpu-env") == "TYPE: 'v4'"
        assert detection.ask_google("worker-network-endpoints") is None
        server.shutdown()
    # Nobody is there.
    assert detection.ask_google("tpu-env") is None


def test_an_indexed_job_of_kubernetes():
    found = find(POD, packages=["kubernetes"])
    assert found == Cluster("Kubernetes", None, process_id=2)
    # A pod that is no part of an indexed Job.
    assert find({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, packages=["kubernetes"]) is None


def test_one_process_is_no_cluster():
    assert find({}) is None
    assert find({"PATH": "/bin", "SLURM_JOB_ID": "77", "HOSTNAME": "a"}) is None
    assert find(GIVEN | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}) is None


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "node1:1"}, "must be set together .*=node1:1 alone"),
        ({"JAX_NUM_PROCESSES": "4"} | SLURM, "must be given together.*JAX_PROCESS_ID=None"),
        (GIVEN | {"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID must be from 0 .* got 4 of 4"),
        (GIVEN | {"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID must be a whole number, got '-1'"),
        (GIVEN | {"JAX_COORDINATOR_ADDRESS": "node1"}, "must be host:port, got 'node1'"),
        (SLURM | {"SLURM_NTASKS": "four"}, "SLURM_NTASKS must be a whole number, got 'four'"),
        (MPI, "Open MPI started 4 processes .* install mpi4py"),
        (POD, "indexed Job, .* compute.distributed=off"),
    ],
)
def test_what_does_not_suffice_is_refused(environment, words):
    with pytest.raises(ValueError, match=words):
        find(environment)


def test_the_address_alone_leaves_the_numbers_to_the_cluster():
    alone = {"JAX_COORDINATOR_ADDRESS": "node1:1234"}
    assert find(alone | SLURM) == find(SLURM)
