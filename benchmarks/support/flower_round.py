"""A round of clients in Flower's simulation: workers of Ray on this machine that run a client app.

Ray's node process ends where the agents that it starts do not tell their ports in 15 seconds, which
they miss on slow machines. Here the ports are chosen beforehand, and it does not wait for them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# (number of the client, arrays of the server) -> arrays of its update.
TrainClient = Callable[[int, list[np.ndarray]], list[np.ndarray]]
# arrays of the server -> sums of the updates of all clients.
Round = Callable[[list[np.ndarray]], list[np.ndarray]]
_PATIENCE = 120.0
_LOOPBACK = "127.0.0.1"


def flower_is_installed() -> bool:
    """Whether Flower and Ray are."""
    return all(importlib.util.find_spec(name) is not None for name in ("flwr", "ray"))


def in_simulation(train: TrainClient, num_clients: int, use: Callable[[Round], None]) -> None:
    """Calls `use` with a round of clients that Flower's simulation runs, one worker for each core.

    Args:
        train: trains a client. It is sent to the workers once, by cloudpickle, and called there.
        num_clients: nodes of the simulation.
        use: may call the round any number of times.

    Raises:
        RuntimeError: a node did not register or a client failed.
    """
    from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

    client, server = ClientApp(), ServerApp()

    @client.train()
    def answer(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        update = train(number, message.content["arrays"].to_numpy_ndarrays())
        return Message(content=RecordDict({"arrays": ArrayRecord(update)}), reply_to=message)

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        del context
        nodes = _wait_for_nodes(grid, num_clients)

        def one_round(arrays: list[np.ndarray]) -> list[np.ndarray]:
            content = RecordDict({"arrays": ArrayRecord(arrays)})
            messages = [
                Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node)
                for node in nodes
            ]
            totals = [np.zeros_like(array) for array in arrays]
            for reply in grid.send_and_receive(messages):
                if reply.has_error():
                    raise RuntimeError(f"a client failed: {reply.error}")
                update = reply.content["arrays"].to_numpy_ndarrays()
                totals = [total + part for total, part in zip(totals, update, strict=True)]
            return totals

        use(one_round)

    simulate(server, client, num_clients)


def simulate(server: Any, client: Any, num_nodes: int) -> None:
    """Runs a Flower server app with nodes that run a client app, one worker for each core."""
    from flwr.simulation import run_simulation

    with _ray_on_this_machine() as address:
        run_simulation(
            server,
            client,
            num_supernodes=num_nodes,
            backend_config={
                "client_resources": {"num_cpus": 1},
                "init_args": {"address": address, "logging_level": "error"},
            },
        )


def _wait_for_nodes(grid: Any, number: int) -> list[int]:
    """Waits until all nodes are there: the server app starts before they are registered."""
    start = time.monotonic()
    while len(nodes := sorted(grid.get_node_ids())) < number:
        if time.monotonic() - start > _PATIENCE:
            raise RuntimeError(f"{len(nodes)} of {number} nodes are there after {_PATIENCE:g} s")
        time.sleep(0.1)
    return nodes


@contextlib.contextmanager
def _ray_on_this_machine() -> Iterator[str]:
    """Starts Ray with a worker for each core, and stops what it has started."""
    # Else its processes look for a token that only `ray start` and `ray.init` make.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    from ray.cluster_utils import Cluster

    names = ("metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    head = {
        "num_cpus": os.cpu_count(),
        "include_dashboard": False,
        **dict(zip(names, _free_ports(len(names)), strict=True)),
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind((_LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
