"""What `dpjax federated` is asked to do: one tree of dataclasses for Python and the shell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from dpjax.basics.lora_config import LoraConfig
from dpjax.basics.option_checks import (
    CheckedOptions,
    check_at_least,
    check_choice,
    check_positive,
    check_share,
)
from dpjax.data import DataSource
from dpjax.finetuning import Audit, Compute, Generation, Privacy, Tracking, build_options
from dpjax.privatize import GeneratorName

TaskName = Literal["sequence_classification", "token_classification", "causal_lm", "preference"]
ServerOptimizer = Literal["fedavg", "fedadam"]
Neighboring = Literal["add_or_remove_one", "replace_one", "zero_out"]


@dataclasses.dataclass(frozen=True)
class Clients(CheckedOptions):
    """Who the clients are, and what each of them does in a round.

    Example:
        >>> Clients(column="author", cohort_size=20).local_epochs
        1
    """

    column: str | None = None
    """Column of the training data that names the client of each record. Give it, or num_clients."""
    num_clients: int | None = None
    """Deal the records out to this many simulated clients instead: evenly and at random, or with
    dirichlet_alpha."""
    dirichlet_alpha: float | None = None
    """With num_clients, deal each label out in proportions from a Dirichlet distribution: 0.1 gives
    clients of few labels and of very different sizes, 100 gives clients that are alike."""
    partition_seed: int = 0
    """With num_clients, another one deals anew. It is public."""
    cohort_size: int = 20
    """Mean number of clients in a round. Each is drawn by itself, with probability cohort_size over
    the number of clients."""
    num_rounds: int = 50
    """Length of the run."""
    local_epochs: int = 1
    """Passes of a client over its records in a round."""
    local_batch_size: int = 8
    """Records of a local step."""
    local_learning_rate: float = 0.1
    """Learning rate of the local steps, which are those of gradient descent without momentum."""
    records_per_client: int = 128
    """How many records of a client a round reads at most, drawn in each round afresh. ε does not
    depend on it; time and memory do."""
    clients_at_once: int = 8
    """Clients that are trained at once: costs memory, changes results by rounding only."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        if (self.column is None) == (self.num_clients is None):
            given = "neither" if self.column is None else "both"
            raise ValueError(
                "give either clients.column, which names the client of each record, or "
                f"clients.num_clients, which deals records out to simulated ones, got {given}"
            )
        if self.column is not None:
            for name, default in (("dirichlet_alpha", None), ("partition_seed", 0)):
                value = getattr(self, name)
                if value != default:
                    raise ValueError(
                        f"clients.{name}={value} deals records out to simulated clients, and "
                        f"clients.column={self.column!r} says whose they are: leave out one of them"
                    )
        check_at_least("clients.num_clients", self.num_clients, 2)
        check_positive("clients.dirichlet_alpha", self.dirichlet_alpha)
        check_at_least("clients.partition_seed", self.partition_seed, 0)
        counts = ("cohort_size", "num_rounds", "local_epochs", "local_batch_size")
        for name in (*counts, "records_per_client", "clients_at_once"):
            check_at_least(f"clients.{name}", getattr(self, name), 1)
        check_positive("clients.local_learning_rate", self.local_learning_rate)
        if self.records_per_client > 1000:
            raise ValueError(
                f"clients.records_per_client must be at most 1000, got {self.records_per_client}"
            )


@dataclasses.dataclass(frozen=True)
class Server(CheckedOptions):
    """What the server makes of the noisy mean update of a round.

    Example:
        >>> Server().rate, Server(optimizer="fedadam").rate
        (1.0, 0.01)
    """

    optimizer: ServerOptimizer = "fedavg"
    """fedavg adds the mean update times the learning rate; fedadam gives it to Adam as a gradient
    (Reddi et al. 2021, arXiv:2003.00295). None of them costs ε."""
    learning_rate: float | None = None
    """Default: 1 for fedavg, 0.01 for fedadam."""
    momentum: float = 0.0
    """With optimizer=fedavg, how much of the update before is kept."""

    @property
    def rate(self) -> float:
        """The learning rate, or its default."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1.0 if self.optimizer == "fedavg" else 0.01

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        check_choice("server.optimizer", self.optimizer, get_args(ServerOptimizer))
        check_positive("server.learning_rate", self.learning_rate)
        check_share("server.momentum", self.momentum)
        if self.momentum and self.optimizer != "fedavg":
            raise ValueError(
                f"server.momentum={self.momentum} is for server.optimizer=fedavg, got "
                f"{self.optimizer}; leave it out"
            )


@dataclasses.dataclass(frozen=True)
class ClientPrivacy(CheckedOptions):
    """The promise, for a client with all records: give a target epsilon or a noise multiplier.

    Example:
        >>> ClientPrivacy(target_epsilon=3.0).clip_norm
        1.0
    """

    target_epsilon: float | None = None
    """The run's total ε; the noise multiplier is calibrated so that it is not exceeded."""
    noise_multiplier: float | None = None
    """Standard deviation of the noise divided by the clip norm."""
    delta: float | None = None
    """δ of the guarantee; default: 1e-5, or n^-1.1 for n clients, if that is smaller."""
    clip_norm: float = 1.0
    """L2 norm that the update of one client is clipped to."""
    target_quantile: float | None = None
    """Move the clip norm, from clip_norm on, so that this share of the updates is not clipped
    (Andrew et al. 2021, arXiv:1905.03871). Each round then also releases how many were not, with
    noise of its own; noise_multiplier is that of both releases together."""
    clip_learning_rate: float = Privacy.clip_learning_rate
    """With target_quantile, how fast the clip norm moves: by a factor of about e to this power in a
    round at most."""
    count_stddev: float | None = None
    """With target_quantile, the standard deviation of the noise of the count; default: a twentieth
    of clients.cohort_size, and twice noise_multiplier at least, which leaves updates at most 3.3 %
    more noise."""
    neighboring: Neighboring = "add_or_remove_one"
    """Which data sets nobody can tell apart: with and without a client; with one that contributes
    nothing; with one exchanged."""
    generator: GeneratorName = "threefry"
    """What draws Gaussian noise, threefry or chacha20, as for finetune."""
    ledger: str | None = None
    """File in which all runs on these training records are put on record, as for finetune."""


@dataclasses.dataclass(frozen=True)
class FederatedLora(LoraConfig):
    """Low-rank adapters; B alone is trained by default.

    The mean of products A·B is not the product of the means of A and of B. With one A for all
    clients it is: what the server averages is what clients have learnt (FFA-LoRA: Sun et al. 2024,
    arXiv:2403.12313).

    Example:
        >>> FederatedLora(rank=4).freeze_a
        True
    """

    freeze_a: bool = True
    """Train B only: A is the same for all clients, and averages of updates are averages of what
    clients have learnt."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        super().check()
        if self.dropout:
            raise ValueError(
                f"lora.dropout={self.dropout} would drop the same inputs in all local epochs of a "
                "round: leave it out"
            )
        if self.gauge != "factors":
            raise ValueError(
                f"lora.gauge={self.gauge} is for gradients of single steps, and clients send the "
                "change of many: leave it out"
            )


@dataclasses.dataclass(frozen=True)
class RoundOptions(CheckedOptions):
    """What else there is to say about training.

    Example:
        >>> RoundOptions().max_length
        128
    """

    max_length: int = 128
    """Longer texts are cut to this many tokens."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all labels."""
    loss_reduction: Literal["mean", "sum"] = "mean"
    """With task=causal_lm, the loss of a record: mean or sum over its tokens that count."""
    checkpoint_every_seconds: float = 60.0
    """How often the state is stored while training goes on."""
    checkpoint_every_rounds: int | None = None
    """Store the state after so many rounds too, if that comes first."""
    keep_checkpoints: int = 2
    """How many states are kept."""
    evaluate_every: int | None = None
    """Measure the model on the held-out records every so many rounds, into metrics.jsonl; default:
    at the end only. No number of it chooses the model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FederatedConfig(CheckedOptions):
    """Simulate federated fine-tuning with differential privacy for clients, on this machine.

    Example:
        >>> config = FederatedConfig(
        ...     model="path/to/checkpoint",
        ...     train_data=DataSource("train.csv"),
        ...     eval_data=DataSource("dev.csv"),
        ...     output_dir="runs/federated",
        ...     privacy=ClientPrivacy(target_epsilon=3.0),
        ...     clients=Clients(column="author"),
        ... )
        >>> config.lora.freeze_a, config.server.rate
        (True, 1.0)
    """

    model: str
    """Hugging Face checkpoint: a local folder or a hub id."""
    train_data: DataSource
    """The private records of all clients."""
    eval_data: DataSource
    """Held-out records: accuracy is measured on them."""
    output_dir: str
    """New folder for the tuned model, the privacy report and the metrics."""
    revision: str | None = None
    """Branch, tag or commit of a model from the hub; default: its main branch."""
    task: TaskName = "sequence_classification"
    """Label texts, tag their words, write texts, or learn which of two answers is better."""
    separator: str = ""
    """With task=causal_lm or preference, what stands between a prompt and its completion."""
    pooling: Literal["auto", "first", "mean"] = "auto"
    """How a text becomes one vector, as for finetune."""
    num_layers: int | None = None
    """Keep only this many layers of the checkpoint, from the bottom; default: all."""
    tuning: Literal["lora", "head"] = "lora"
    """What clients train and send: low-rank adapters with the head, or the head alone."""
    privacy: ClientPrivacy = dataclasses.field(default_factory=ClientPrivacy)
    clients: Clients = dataclasses.field(default_factory=Clients)
    server: Server = dataclasses.field(default_factory=Server)
    lora: FederatedLora = dataclasses.field(default_factory=FederatedLora)
    training: RoundOptions = dataclasses.field(default_factory=RoundOptions)
    compute: Compute = dataclasses.field(default_factory=Compute)
    generation: Generation = dataclasses.field(default_factory=Generation)
    audit: Audit = dataclasses.field(default_factory=Audit)
    tracking: Tracking = dataclasses.field(default_factory=Tracking)
    non_private: bool = False
    """The same recipe without clipping and noise. No privacy at all."""
    seed: int | None = None
    """Fix all randomness, for tests: whoever guesses the seed can undo the privacy."""
    resume: bool = False
    """Go on with the interrupted run in output_dir; start it if it has not used its key yet."""
    overwrite: bool = False
    """Delete the unfinished run in output_dir and start afresh."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        if self.train_data.owner_column is not None:
            raise ValueError(
                f"train_data.owner_column={self.train_data.owner_column!r} must be given as "
                "clients.column: clients are whom the guarantee is for"
            )
        if self.clients.dirichlet_alpha is not None and self.task != "sequence_classification":
            raise ValueError(
                f"clients.dirichlet_alpha={self.clients.dirichlet_alpha} deals records out by "
                f"their labels, which task={self.task} has none of: leave it out"
            )
        if self.audit.hold_out:
            raise ValueError(
                f"audit.hold_out={self.audit.hold_out} flips a coin for each record, and the claim "
                "is one for clients. Give audit.num_canaries, each of which is a client"
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> FederatedConfig:
        """Builds the configuration from nested mappings or dataclasses.

        A plain string is accepted for a data source and means its path.

        Raises:
            TypeError: an option is unknown (the nearest valid name is given) or missing, or its
                value has the wrong type.
        """
        config: FederatedConfig = build_options(cls, options)
        return config
