"""Which cluster a process belongs to, read from its environment variables alone."""

from __future__ import annotations

import dataclasses
import http.client
import urllib.request
from collections.abc import Callable, Mapping
from importlib.util import find_spec

_COORDINATOR = "JAX_COORDINATOR_ADDRESS"
_COUNT = "JAX_NUM_PROCESSES"
_NUMBER = "JAX_PROCESS_ID"
# What jax.distributed reads of a SLURM step.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_GKE_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
_ASK_NOBODY = "TPU_SKIP_MDS_QUERY"
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Several processes that one of them has found itself in.

    Attributes:
        system: what started them, in words.
        method: `cluster_detection_method` of `jax.distributed`, by which it finds what is not given
            here; "deactivate" where all is given, None where the method has no name.
        num_processes: how many there are, None if only `jax.distributed` can ask.
        process_id: the number of this one, from 0 on.
        coordinator_address: host:port of process 0.
        all_local_devices: whether this process is the only one of its host, and takes all its GPUs.
    """

    system: str
    method: str | None
    num_processes: int | None = None
    process_id: int | None = None
    coordinator_address: str | None = None
    all_local_devices: bool = False


def ask_google(name: str) -> str | None:
    """Returns an attribute of this virtual machine; None outside Google Cloud, or without it."""
    request = urllib.request.Request(_METADATA + name, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())
    except (OSError, http.client.HTTPException):
        return None


def find_cluster(
    environment: Mapping[str, str],
    *,
    on_tpu: bool = False,
    ask_metadata: Callable[[str], str | None] = ask_google,
    has_package: Callable[[str], bool] = lambda name: find_spec(name) is not None,
) -> Cluster | None:
    """Returns the processes that this one was started with; None for one process.

    The variables are those of `jax.distributed` and its cluster detection, and JAX_NUM_PROCESSES
    and JAX_PROCESS_ID, which Kubeflow Trainer sets
    (https://www.kubeflow.org/docs/components/trainer/user-guides/jax).

    Args:
        environment: environment variables, as `os.environ` has them.
        on_tpu: whether JAX runs on TPUs.
        ask_metadata: returns an attribute of a virtual machine of Google Cloud, or None.
        has_package: whether a Python package is installed.

    Raises:
        ValueError: variables contradict each other or do not suffice.

    Example:
        >>> step = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_LOCALID": "0"}
        >>> find_cluster(step | {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}).num_processes
        2
        >>> find_cluster(step | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) is None
        True
    """
    if _COUNT in environment or _NUMBER in environment:
        return given_cluster(
            environment.get(_COORDINATOR),
            _number(environment, _COUNT),
            _number(environment, _NUMBER),
            names=(_COORDINATOR, _COUNT, _NUMBER),
        )
    if _is_several(environment, "OMPI_COMM_WORLD_SIZE"):
        return _open_mpi(environment, has_package)
    if all(name in environment for name in _SLURM):
        return _slurm(environment)
    if on_tpu and (hosts := _tpu_hosts(environment, ask_metadata)) is not None:
        return _tpu(environment, ask_metadata, hosts)
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return _kubernetes(environment, has_package)
    if _COORDINATOR in environment:
        raise ValueError(
            f"{_COORDINATOR} must be set together with {_COUNT} and {_NUMBER} where no cluster is "
            f"found, got {_COORDINATOR}={environment[_COORDINATOR]} alone. Set all three or none"
        )
    return None


def given_cluster(
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    names: tuple[str, str, str] = ("coordinator_address", "num_processes", "process_id"),
) -> Cluster | None:
    """Returns the processes that somebody named; None if there is only one.

    Args:
        coordinator_address: host:port of process 0.
        num_processes: how many there are.
        process_id: the number of this one, from 0 on.
        names: what the three are called where they were given.

    Raises:
        ValueError: one of the three is missing or does not fit.
    """
    values = (coordinator_address, num_processes, process_id)
    if coordinator_address is None or num_processes is None or process_id is None:
        said = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        raise ValueError(f"{', '.join(names)} must be given together, got {said}. Give all three")
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"{names[2]} must be from 0 to {names[1]} - 1, got {process_id} of {num_processes}. "
            "Number the processes from 0 on"
        )
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"{names[0]} must be host:port, got {coordinator_address!r}. Name a port of the host "
            "of process 0 that is free"
        )
    if num_processes == 1:
        return None
    return Cluster(
        "the address that was given", "deactivate", num_processes, process_id, coordinator_address
    )


def _open_mpi(environment: Mapping[str, str], has_package: Callable[[str], bool]) -> Cluster:
    count = _number(environment, "OMPI_COMM_WORLD_SIZE")
    number = _number(environment, "OMPI_COMM_WORLD_RANK")
    alone = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    # Open MPI 5 says no more where process 0 is.
    method = "ompi" if "OMPI_MCA_orte_hnp_uri" in environment else "mpi4py"
    if method == "mpi4py" and not has_package("mpi4py"):
        raise ValueError(
            f"Open MPI started {count} processes and does not say where process 0 is: install "
            f"mpi4py, or set {_COORDINATOR}, {_COUNT} and {_NUMBER} for each of them"
        )
    return Cluster("Open MPI", method, count, number, all_local_devices=alone)


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    # In an interactive step SLURM_NTASKS is what the job may start, and the shell is one task.
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    if not _is_several(environment, tasks):
        return None
    count, number = _number(environment, tasks), _number(environment, "SLURM_PROCID")
    alone = environment.get("SLURM_STEP_NUM_NODES") == str(count)
    return Cluster("SLURM", "slurm", count, number, all_local_devices=alone)


def _tpu_hosts(
    environment: Mapping[str, str], ask_metadata: Callable[[str], str | None]
) -> str | None:
    """The hosts of a slice, with commas between them; None if nothing is known of any."""
    for name in _GKE_HOSTS:
        if name in environment:
            return environment[name]
    return None if _ASK_NOBODY in environment else ask_metadata("worker-network-endpoints")


def _tpu(
    environment: Mapping[str, str], ask_metadata: Callable[[str], str | None], hosts: str
) -> Cluster | None:
    """A slice, or several, of a TPU pod, on Google's Kubernetes or its virtual machines."""
    on_kubernetes = any(name in environment for name in _GKE_HOSTS)
    slices = environment.get("MEGASCALE_NUM_SLICES")
    if slices is None and not on_kubernetes:
        slices = _slices_of(ask_metadata("tpu-env") or "")
    count = len(hosts.split(",")) * int(slices or 1)
    method = "gketpu" if on_kubernetes else "gcetpu"
    return None if count == 1 else Cluster("TPU pod", method, count)


def _slices_of(described: str) -> str | None:
    """The number of slices in lines such as `MEGASCALE_NUM_SLICES: '2'`; None for one."""
    for line in described.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "MEGASCALE_NUM_SLICES":
            return value.strip().strip("'")
    return None


def _kubernetes(environment: Mapping[str, str], has_package: Callable[[str], bool]) -> Cluster:
    """An indexed Job, alone or of a JobSet; only the API server knows how many pods it has."""
    if not has_package("kubernetes"):
        raise ValueError(
            "this pod belongs to an indexed Job, and its variables do not say how many pods there "
            f"are: set {_COORDINATOR}, {_COUNT} and {_NUMBER}, install kubernetes, or train in "
            "this pod alone with compute.distributed=off"
        )
    return Cluster("Kubernetes", None, process_id=_number(environment, "JOB_COMPLETION_INDEX"))


def _is_several(environment: Mapping[str, str], name: str) -> bool:
    count = _number(environment, name)
    return count is not None and count > 1


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """The value of a variable as a number, None if it is not set."""
    text = environment.get(name)
    if text is None:
        return None
    if not text.strip().isdecimal():
        raise ValueError(f"{name} must be a whole number, got {text!r}. Correct or unset it")
    return int(text)
