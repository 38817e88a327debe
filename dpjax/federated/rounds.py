"""What clients do in a round of a federated run, as the run asks for it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.data import RecordColumns
from dpjax.federated.client_records import as_local_batches
from dpjax.federated.local_training import client_loss
from dpjax.federated.partition import dirichlet_partition, even_partition
from dpjax.federated.run_config import FederatedRunConfig
from dpjax.training import Summed

_UPDATES = Summed(
    "Updates of the clients",
    "The update of each client that was drawn is clipped as one",
    "Clipped updates of clients are added up, and noise is added once to the sum.",
)


@dataclasses.dataclass(frozen=True)
class ClientRounds:
    """Clients train by themselves in each round, and what they send is clipped as one.

    Attributes:
        config: of the run.
        algorithm: its name.
        summed: what a round adds up.
    """

    config: FederatedRunConfig
    algorithm: str = "DP-FedAvg"
    summed: Summed = _UPDATES

    def with_owners(self, records: RecordColumns) -> RecordColumns:
        """Returns the training records with their clients.

        Raises:
            ValueError: there are too few records or clients, or records have no labels.
        """
        records = records if self.config.clients.column is not None else self._dealt(records)
        assert records.owners is not None
        num, wanted = len(set(records.owners)), self.config.clients.cohort_size
        # That there is one client alone is said elsewhere, whatever the cohort.
        if wanted > num > 1:
            raise ValueError(
                f"clients.cohort_size={wanted} is more than the {num} clients that have training "
                f"records; use at most {num}, better a tenth of it"
            )
        return records

    def unit_loss(self, loss: Any) -> Any:
        """Makes the loss of a client, whose gradient is minus its local update."""
        import optax

        clients = self.config.clients
        local = client_loss(
            loss, optax.sgd(clients.local_learning_rate), epochs=clients.local_epochs
        )

        def loss_of_client(params: PyTree, client: PyTree, frozen: PyTree) -> jax.Array:
            return local(params, client, frozen)

        return loss_of_client

    def sizes(self, counts: np.ndarray) -> np.ndarray:
        """Returns how many local batches clients with so many records are given, `(n,)` int64.

        They are few numbers, for each of which a program is compiled.
        """
        clients = self.config.clients
        batches = -(-np.asarray(counts, np.int64) // clients.local_batch_size)
        doubled = 2 ** np.ceil(np.log2(np.maximum(1, batches))).astype(np.int64)
        return np.minimum(doubled, math.ceil(clients.records_per_client / clients.local_batch_size))

    def arrange(self, rows: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and mask of clients, `(u, k)`, as local batches `(u, S, b)`."""
        num_batches = int(self.sizes(mask.sum(axis=1)).max())
        return as_local_batches(rows, mask, self.config.clients.local_batch_size, num_batches)

    def who_is_a_user(self) -> str:
        """Says who a client is, and what a round reads of one."""
        clients = self.config.clients
        if clients.column is not None:
            who = (
                f"One user is one client: one value of the column {clients.column!r} of the "
                "training file, with all rows that have it. Who has several values there is "
                "protected for each of them."
            )
        else:
            who = (
                f"One user is one simulated client: {self._deal()}. The guarantee is for all rows "
                "of one client, as they were dealt. No person is a client unless all rows of that "
                "person are one client's; a row is protected as a part of its client."
            )
        epochs = "1 epoch" if clients.local_epochs == 1 else f"{clients.local_epochs} epochs"
        return (
            f"{who} A round reads at most {clients.records_per_client} rows of each client that "
            f"was drawn, trains on them for {epochs}, and clips the whole change of the parameters "
            "as one. All clients weigh the same."
        )

    def rows(self) -> list[tuple[str, str]]:
        """Returns what report.md says about clients."""
        clients = self.config.clients
        whose = (
            self._deal() if clients.column is None else f"values of the column {clients.column!r}"
        )
        return [
            ("Clients", whose),
            (
                "Local training",
                f"{clients.local_epochs} epochs, batches of {clients.local_batch_size}, gradient "
                f"descent with learning rate {clients.local_learning_rate:g}",
            ),
        ]

    def _deal(self) -> str:
        clients = self.config.clients
        how = "evenly and at random"
        if clients.dirichlet_alpha is not None:
            how = f"by labels, Dirichlet α = {clients.dirichlet_alpha:g}"
        return (
            f"the rows of the training file dealt out to {clients.num_clients} clients {how}, seed "
            f"{clients.partition_seed}"
        )

    def _dealt(self, records: RecordColumns) -> RecordColumns:
        clients = self.config.clients
        assert clients.num_clients is not None
        if clients.num_clients > len(records):
            raise ValueError(
                f"clients.num_clients={clients.num_clients} must be at most the {len(records)} "
                "training records"
            )
        if clients.dirichlet_alpha is None:
            numbers = even_partition(
                len(records), num_clients=clients.num_clients, seed=clients.partition_seed
            )
        else:
            numbers = dirichlet_partition(
                records.labels,  # type: ignore[attr-defined]
                num_clients=clients.num_clients,
                alpha=clients.dirichlet_alpha,
                seed=clients.partition_seed,
            )
        return dataclasses.replace(records, owners=[f"client {number}" for number in numbers])
