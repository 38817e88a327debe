"""Trains as train.py does, in the workers of Ray Train.

    python ray_train.py records.npz folder

Both paths are absolute, and on a disk that all workers have.
"""

import socket
import sys
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.jax import JaxTrainer


def join_workers() -> None:
    """Joins the workers on CPUs; for GPUs and TPUs `JaxTrainer` has done so."""
    import jax
    from ray.train.collective import broadcast_from_rank_zero

    import dpjax

    context = ray.train.get_context()
    if jax.distributed.is_initialized() or context.get_world_size() == 1:
        return
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
    dpjax.initialize_distributed(
        coordinator_address=broadcast_from_rank_zero(address),
        num_processes=context.get_world_size(),
        process_id=context.get_world_rank(),
    )


def train(config: dict[str, Any]) -> None:
    """What each worker runs; a worker has its own devices."""
    join_workers()
    # Only now: a driver that imports JAX may keep the devices from its workers.
    from train import train

    train(**config)


def start(config: dict[str, Any], num_workers: int, platform: str) -> None:
    """Runs `train(config)` in workers on "cpu", "cuda" or "tpu"."""
    JaxTrainer(
        train,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=platform == "cuda"),
        run_config=RunConfig(worker_runtime_env={"env_vars": {"JAX_PLATFORMS": platform}}),
    ).fit()


if __name__ == "__main__":
    ray.init(runtime_env={"working_dir": str(Path(__file__).parent)})
    start(dict(zip(("records", "folder"), sys.argv[1:], strict=True)), 2, "cpu")
