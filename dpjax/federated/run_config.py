"""The options of a federated run as a fine-tuning run with clients as owners reads them."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from dpjax.basics.lora_config import LoraConfig
from dpjax.federated.config import Clients, FederatedConfig, Server
from dpjax.finetuning import FinetuneConfig, Privacy, Training

# Options that mean the same in both.
_SAME = (
    "model",
    "eval_data",
    "output_dir",
    "revision",
    "task",
    "separator",
    "pooling",
    "num_layers",
    "tuning",
    "compute",
    "generation",
    "audit",
    "tracking",
    "non_private",
    "seed",
    "resume",
    "overwrite",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FederatedRunConfig(FinetuneConfig):
    """A fine-tuning run whose owners are clients; a step is a round.

    `of` makes it.

    Example:
        >>> from dpjax.data import DataSource
        >>> from dpjax.federated import ClientPrivacy
        >>> asked = FederatedConfig(
        ...     model="path/to/checkpoint",
        ...     train_data=DataSource("train.csv"),
        ...     eval_data=DataSource("dev.csv"),
        ...     output_dir="runs/federated",
        ...     privacy=ClientPrivacy(target_epsilon=3.0),
        ...     clients=Clients(num_clients=100, cohort_size=10),
        ... )
        >>> config = FederatedRunConfig.of(asked)
        >>> config.samples_owners, config.training.expected_batch_size
        (True, 10)
    """

    clients: Clients
    server: Server

    @property
    def samples_owners(self) -> bool:
        """Whether batches are of owners: of clients, whatever makes them."""
        return True

    @property
    def records_at_once(self) -> int | Literal["auto"]:
        """How many records' logits are held at once: a local batch of each client."""
        return self.clients.clients_at_once * self.clients.local_batch_size

    @classmethod
    def of(cls, config: FederatedConfig) -> FederatedRunConfig:
        """Returns the options of a federated run.

        Raises:
            ValueError: they do not fit.
        """
        clients, server, training = config.clients, config.server, config.training
        lora = {f.name: getattr(config.lora, f.name) for f in dataclasses.fields(LoraConfig)}
        return cls(
            **{name: getattr(config, name) for name in _SAME},
            train_data=dataclasses.replace(config.train_data, owner_column=clients.column),
            clients=clients,
            server=server,
            lora=LoraConfig(**lora),
            privacy=Privacy(
                **dataclasses.asdict(config.privacy), records_per_owner=clients.records_per_client
            ),
            training=Training(
                expected_batch_size=clients.cohort_size,
                microbatch_size=clients.clients_at_once * clients.records_per_client,
                num_steps=clients.num_rounds,
                optimizer="adam" if server.optimizer == "fedadam" else "sgd",
                # Of Adam it must be the default.
                momentum=server.momentum if server.optimizer == "fedavg" else Training.momentum,
                learning_rate=server.rate,
                schedule="constant",
                warmup_fraction=0.0,
                max_length=training.max_length,
                label_smoothing=training.label_smoothing,
                loss_reduction=training.loss_reduction,
                checkpoint_every_seconds=training.checkpoint_every_seconds,
                checkpoint_every_steps=training.checkpoint_every_rounds,
                keep_checkpoints=training.keep_checkpoints,
                evaluate_every=training.evaluate_every,
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain, JSON-ready values; what was asked for before what is made from it.

        A resumption with other options names the first that differs.
        """
        made = super().to_dict()
        return {name: made.pop(name) for name in ("clients", "server")} | made

    def _check_owners(self) -> None:
        # A partition makes clients where no column names them.
        if self.train_data.owner_column is not None:
            super()._check_owners()
