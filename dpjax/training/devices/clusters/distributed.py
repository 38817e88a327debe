"""The call that makes several processes one run: before any device is used, and once."""

from __future__ import annotations

import os
from typing import Any, Literal

import jax
from rich.console import Console

from dpjax.basics.option_checks import check_choice
from dpjax.training.devices.clusters.detection import Cluster, find_cluster, given_cluster

_MODES = ("auto", "off")


def initialize_distributed(
    mode: Literal["auto", "off"] = "auto",
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    console: Console | None = None,
) -> None:
    """Calls `jax.distributed.initialize` where this process is one of several.

    `auto` finds them by the variables of Open MPI, SLURM (a step of more than one task), a TPU pod,
    an indexed Job of Kubernetes, or by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID (https://docs.jax.dev/en/latest/multi_process.html). One process stays as it is,
    and uses no device here. So does one for which `jax.distributed` is initialized already. The
    processes are waited for; JAX ends this one if others do not come within five minutes.

    JAX's own handler of SIGTERM is left out: runs save themselves at that signal.

    Args:
        mode: auto, or off to do nothing.
        coordinator_address: host:port of process 0; the three are given together, or none of them.
        num_processes: how many processes there are.
        process_id: the number of this process, from 0 on.
        console: where the processes are named, in one line; default: standard output.

    Raises:
        ValueError: what is given or set does not fit.
        RuntimeError: JAX has used a device before.

    Example:
        >>> import dpjax
        >>> dpjax.initialize_distributed()  # one process: nothing is done
    """
    check_choice("mode", mode, _MODES)
    explicit = (coordinator_address, num_processes, process_id)
    if mode == "off":
        if explicit != (None, None, None):
            raise ValueError(
                f"mode must be auto where processes are given, got {mode!r} and {explicit}. Leave "
                "one of them out"
            )
        return
    if jax.distributed.is_initialized():
        return
    if explicit == (None, None, None):
        cluster = find_cluster(os.environ, on_tpu=_runs_on_tpu())
    else:
        cluster = given_cluster(*explicit)
    if cluster is None:
        return
    told = console or Console()
    told.print(_in_words(cluster), markup=False, highlight=False, soft_wrap=True)
    _initialize(cluster)


def _runs_on_tpu() -> bool:
    # JAX sets it when it is imported on a machine with TPUs; nobody has to ask a device.
    platforms: str | None = jax.config.jax_platforms  # type: ignore[attr-defined]
    return "tpu" in (platforms or "").split(",")


def _in_words(cluster: Cluster) -> str:
    count = "several" if cluster.num_processes is None else str(cluster.num_processes)
    number = "one of them" if cluster.process_id is None else f"number {cluster.process_id}"
    return (
        f"{cluster.system}: {count} processes, this is {number} and waits for the others "
        "(with compute.distributed=off it trains alone)"
    )


def _initialize(cluster: Cluster) -> None:
    options: dict[str, Any] = {"cluster_detection_method": cluster.method}
    for name in ("coordinator_address", "num_processes", "process_id"):
        if (value := getattr(cluster, name)) is not None:
            options[name] = value
    # JAX would give each process of SLURM and Open MPI one GPU; an empty list means all.
    if cluster.all_local_devices and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        options["local_device_ids"] = []
    # JAX's handler would take SIGTERM away from the run, which saves its state and ends.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**options)
    except RuntimeError as error:
        if "before any JAX calls" not in str(error):
            raise
        raise RuntimeError(
            f"processes must be joined before JAX uses a device, and it has used one: call "
            "dpjax.initialize_distributed() first in the program, before arrays are made, or give "
            f"compute.distributed=off to train in this process alone ({cluster.system})"
        ) from error
