"""Federated fine-tuning with privacy for clients: local training, aggregation, simulated runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpjax.federated.aggregator import PrivateAggregator as PrivateAggregator
from dpjax.federated.client_records import ClientRecords as ClientRecords
from dpjax.federated.config import ClientPrivacy as ClientPrivacy
from dpjax.federated.config import Clients as Clients
from dpjax.federated.config import FederatedConfig as FederatedConfig
from dpjax.federated.config import FederatedLora as FederatedLora
from dpjax.federated.config import RoundOptions as RoundOptions
from dpjax.federated.config import Server as Server
from dpjax.federated.federate import federate as federate
from dpjax.federated.local_training import LocalUpdate as LocalUpdate
from dpjax.federated.local_training import client_loss as client_loss
from dpjax.federated.local_training import local_update as local_update
from dpjax.federated.partition import dirichlet_partition as dirichlet_partition
from dpjax.federated.partition import even_partition as even_partition

if TYPE_CHECKING:
    from dpjax.federated.set_up import execute_federated as execute_federated
    from dpjax.federated.set_up import set_up_federated as set_up_federated

__all__ = [
    "ClientPrivacy",
    "ClientRecords",
    "Clients",
    "FederatedConfig",
    "FederatedLora",
    "LocalUpdate",
    "PrivateAggregator",
    "RoundOptions",
    "Server",
    "client_loss",
    "dirichlet_partition",
    "even_partition",
    "execute_federated",
    "federate",
    "local_update",
    "set_up_federated",
]


# For the command. It loads models, which takes a second or two.
_LOADED_LATE = dict.fromkeys(("execute_federated", "set_up_federated"), "dpjax.federated.set_up")


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LOADED_LATE:
        return getattr(importlib.import_module(_LOADED_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
