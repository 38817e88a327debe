"""What a fine-tuning run is asked to do: one tree of dataclasses for Python and the shell."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from dpjax.basics.lora_config import LoraConfig
from dpjax.basics.option_checks import CheckedOptions, check_at_least, check_choice
from dpjax.data import DataSource
from dpjax.finetuning.config.audit import Audit
from dpjax.finetuning.config.compute import Compute, Generation
from dpjax.finetuning.config.features import FeatureOptions
from dpjax.finetuning.config.head import Head
from dpjax.finetuning.config.head_stage import check_head_stage, head_stage_options
from dpjax.finetuning.config.parse import build_options
from dpjax.finetuning.config.privacy import Privacy
from dpjax.finetuning.config.sampling import check_audit, check_relation
from dpjax.finetuning.config.tracking import Tracking
from dpjax.finetuning.config.training import Preference, Training, check_gradients, check_laplace

TaskName = Literal["sequence_classification", "token_classification", "causal_lm", "preference"]
Tuning = Literal["lora", "full", "bias", "head", "last_layers"]

_CLASSIFIERS = ("sequence_classification",)
_WITH_HEAD = ("sequence_classification", "token_classification")
_LANGUAGE = ("causal_lm",)
_PREFERENCE = ("preference",)
_WRITERS = (*_LANGUAGE, *_PREFERENCE)
# Options of a new head and of the layers below it, with their defaults.
_OF_NEW_HEAD = {
    "pooling": "auto",
    "num_layers": None,
    "privacy.head_clip_norm": None,
    "training.head_learning_rate": None,
    "training.head_steps": None,
    "training.head_batch_size": None,
}
# Groups that config.json of a federated run has beside these options.
OF_FEDERATED_RUNS = ("clients", "server")
# Options that only some tasks read, with their defaults.
_OPTIONS_OF_TASKS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "pooling": ("auto", _CLASSIFIERS),
    "num_layers": (None, _CLASSIFIERS),
    "features.layers": ((), _CLASSIFIERS),
    "head.template": (None, _CLASSIFIERS),
    "head.label_words": ((), _CLASSIFIERS),
    "privacy.head_clip_norm": (None, _WITH_HEAD),
    "training.head_learning_rate": (None, _WITH_HEAD),
    "training.head_steps": (None, _WITH_HEAD),
    "training.head_batch_size": (None, _WITH_HEAD),
    "training.label_smoothing": (0.0, _CLASSIFIERS),
    "separator": ("", _WRITERS),
    "generation.suspicion": (None, _WRITERS),
    "training.loss_reduction": ("mean", _LANGUAGE),
    "preference.beta": (Preference.beta, _PREFERENCE),
    "preference.label_smoothing": (Preference.label_smoothing, _PREFERENCE),
    "compute.vocab_chunk": ("auto", _WRITERS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(CheckedOptions):
    """Fine-tune a pretrained language model with differential privacy.

    Example:
        >>> config = FinetuneConfig(
        ...     model="path/to/checkpoint",
        ...     train_data=DataSource("train.csv"),
        ...     eval_data=DataSource("dev.csv"),
        ...     output_dir="runs/first",
        ...     privacy=Privacy(target_epsilon=3.0),
        ... )
        >>> config.tuning, config.lora.rank
        ('lora', 8)
    """

    model: str
    """Hugging Face checkpoint: a local folder or a hub id."""
    train_data: DataSource
    """The private records."""
    eval_data: DataSource
    """Held-out records: accuracy is measured on them, and the attack's non-members come from
    them."""
    output_dir: str
    """New folder for the tuned model, the privacy report and the metrics."""
    revision: str | None = None
    """Branch, tag or commit of a model from the hub; default: its main branch. The privacy report
    says which commit it was."""
    task: TaskName = "sequence_classification"
    """Label texts, tag their words, or write texts: a decoder learns texts, completions of prompts,
    or the assistant's part of conversations, as the columns of the data say; with preference, which
    of two answers to a prompt is better."""
    separator: str = ""
    """With task=causal_lm or preference, what stands between a prompt and its completion; counts as
    prompt."""
    pooling: Literal["auto", "first", "mean"] = "auto"
    """How a text becomes one vector: its first token, as in BERT, or the mean of all tokens, for
    which one more layer is appended; auto takes the mean for checkpoints that are sentence
    encoders."""
    num_layers: int | None = None
    """Keep only this many layers of the checkpoint, from the bottom; default: all. The uppermost
    know what the checkpoint was made for, those below often more of what another task needs."""
    tuning: Tuning = "lora"
    """What is trained: low-rank adapters, every parameter, the biases, the head alone, or the
    uppermost layers. A classification head is trained with all of them."""
    num_trained_layers: int | None = None
    """How many layers, from the top, are trained with tuning=last_layers."""
    privacy: Privacy = dataclasses.field(default_factory=Privacy)
    features: FeatureOptions = dataclasses.field(default_factory=FeatureOptions)
    head: Head = dataclasses.field(default_factory=Head)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    preference: Preference = dataclasses.field(default_factory=Preference)
    training: Training = dataclasses.field(default_factory=Training)
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
        self._check_privacy()
        self._check_sampling()
        self._check_owners()
        self._check_tuning()
        self._check_task()
        check_head_stage(
            self.privacy,
            self.training,
            tuning=self.tuning,
            owner_column=self.train_data.owner_column,
        )
        self._check_features()
        check_gradients(self.privacy, self.training, self.non_private, self.trains_in_tangent_space)
        check_laplace(self.privacy, self.training, self.train_data.owner_column)
        check_at_least("num_layers", self.num_layers, 1)
        if self.resume and self.overwrite:
            raise ValueError("resume goes on with the run that overwrite deletes: give one of them")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be at least 0 and below 2**64, got {self.seed}")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain, JSON-ready values."""
        return dataclasses.asdict(self)

    @property
    def samples_owners(self) -> bool:
        """Whether batches are of owners, instead of single records."""
        return self.train_data.owner_column is not None and self.privacy.owner_sampling == "owners"

    @property
    def records_per_unit(self) -> int:
        """The most records of a unit in a batch: of an owner, where batches are of owners."""
        return self.privacy.records_per_owner if self.samples_owners else 1

    @property
    def reads_language_head(self) -> bool:
        """Whether labels are words of the model's language head, and no classifier is made."""
        head = self.head
        return head.template is not None and bool(head.label_words) and not self.features.layers

    @property
    def trains_in_tangent_space(self) -> bool:
        """Whether steps of adapters are those of `tangent_lora`."""
        return self.tuning == "lora" and self.lora.gauge == "tangent"

    @property
    def records_at_once(self) -> int | Literal["auto"]:
        """How many records' logits are held at once."""
        return self.training.microbatch_size

    def head_stage(self) -> Self:
        """Returns the options as of a run of the steps alone that train the head first."""
        privacy, training = head_stage_options(self.privacy, self.training)
        return dataclasses.replace(
            self, tuning="head", num_trained_layers=None, privacy=privacy, training=training
        )

    @classmethod
    def from_run(cls, stored: Mapping[str, Any]) -> FinetuneConfig:
        """Builds the configuration of what config.json of a run holds, federated or not.

        Raises:
            TypeError, ValueError: as `from_options`; what a federated run has beside is left out.
        """
        kept = {name: value for name, value in stored.items() if name not in OF_FEDERATED_RUNS}
        return cls.from_options(kept)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> FinetuneConfig:
        """Builds the configuration from nested mappings or dataclasses.

        A plain string is accepted for a data source and means its path.

        Raises:
            TypeError: an option is unknown (the nearest valid name is given) or missing, or its
                value has the wrong type.
        """
        return build_options(cls, options)

    def _check_features(self) -> None:
        layers = list(self.features.layers)
        if layers and self.pooling == "first":
            raise ValueError(
                f"features.layers={layers} says what is read of tokens: leave out pooling=first"
            )
        if 0 in layers and self.head.template is not None:
            raise ValueError(
                "features.layers has 0, the embeddings: that of the template's last token is the "
                f"same for all texts. Leave it out, got {layers}"
            )
        if layers and self.num_layers is not None:
            raise ValueError(
                f"features.layers={layers} keeps the layers up to {layers[-1]}: leave out "
                f"num_layers={self.num_layers}"
            )

    def _check_privacy(self) -> None:
        privacy = self.privacy
        if self.non_private and privacy.is_given:
            raise ValueError(
                "non_private=True trains without any privacy, but privacy.target_epsilon or "
                "privacy.noise_multiplier is given: drop one or the other"
            )
        if self.non_private and privacy.ledger is not None:
            raise ValueError(
                f"non_private=True has no ε to put into privacy.ledger={privacy.ledger}: drop one "
                "or the other"
            )
        if self.audit.is_wanted and privacy.ledger is not None:
            raise ValueError(
                f"privacy.ledger={privacy.ledger} is of runs that train on all records and no "
                "canaries: give no ledger, or no audit"
            )
        if not self.non_private and not privacy.is_given:
            raise ValueError(
                "give privacy.target_epsilon (for instance 3) or privacy.noise_multiplier; to "
                "train without privacy say non_private=True"
            )

    def _check_sampling(self) -> None:
        privacy, batch = self.privacy, self.training.expected_batch_size
        sampling, neighboring = privacy.sampling, privacy.neighboring
        if self.non_private and neighboring != Privacy.neighboring:
            raise ValueError(
                f"non_private=True promises nothing about neighbours: leave out privacy.neighboring"
                f"={neighboring}"
            )
        if not self.non_private:
            check_relation(sampling, neighboring, privacy.noise, privacy.noise_distribution)
        elif privacy.noise != Privacy.noise:
            raise ValueError(
                f"non_private=True adds no noise: leave out privacy.noise={privacy.noise}"
            )
        if self.audit.is_wanted:
            check_audit(sampling, neighboring, privacy.noise)
        if privacy.noise != "independent" and self.training.optimizer == "adam-bc":
            raise ValueError(
                "training.optimizer=adam-bc takes off the variance that independent noise has in "
                f"each step, got privacy.noise={privacy.noise}. Give training.optimizer=adam"
            )
        if privacy.ledger is not None and sampling == "random-allocation":
            raise ValueError(
                f"privacy.ledger={privacy.ledger} adds up all runs on the records, and the loss of "
                "random-allocation is known for a whole run alone: give no ledger, or another "
                "privacy.sampling"
            )
        if sampling == "full-batch" and batch != Training.expected_batch_size:
            raise ValueError(
                f"training.expected_batch_size={batch} has no meaning with privacy.sampling="
                "full-batch, whose batches are all records: leave it out"
            )

    def _check_owners(self) -> None:
        column, privacy = self.train_data.owner_column, self.privacy
        if self.eval_data.owner_column is not None and column is None:
            raise ValueError(
                f"eval_data.owner_column={self.eval_data.owner_column!r} has no meaning without "
                "train_data.owner_column: held-out records are not protected, and the attack "
                "compares owners with owners. Give that too, or leave it out"
            )
        if column is None:
            for name in ("records_per_owner", "owner_sampling"):
                value = getattr(privacy, name)
                if value != getattr(Privacy, name):
                    raise ValueError(
                        f"privacy.{name}={value} has no meaning without an owner. Give "
                        "train_data.owner_column, or leave it out"
                    )
            return
        if self.audit.hold_out:
            raise ValueError(
                f"audit.hold_out={self.audit.hold_out} flips a coin for each record, and its bound "
                f"holds for records: with train_data.owner_column={column!r} the claim is one for "
                "owners. Give audit.num_canaries, each of which is an owner, or leave out one of "
                "them"
            )
        if privacy.noise != "independent":
            raise ValueError(
                f"train_data.owner_column={column!r} needs privacy.noise=independent, got "
                f"{privacy.noise}: groups that take turns are accounted for with records as units"
            )
        if self.audit.num_canaries and not self.samples_owners:
            raise ValueError(
                f"audit.num_canaries={self.audit.num_canaries} with privacy.owner_sampling=records "
                "would judge a claim about owners of several records by canaries of one. Give "
                "privacy.owner_sampling=owners, or no audit"
            )
        if privacy.owner_sampling == "records" and privacy.sampling != "poisson":
            raise ValueError(
                "privacy.owner_sampling=records needs privacy.sampling=poisson, got "
                f"{privacy.sampling}: how many records of an owner are drawn together is accounted "
                "for where each is drawn by itself. Give privacy.owner_sampling=owners, or poisson"
            )

    def _check_tuning(self) -> None:
        check_choice("tuning", self.tuning, get_args(Tuning))
        if (self.tuning == "last_layers") != (self.num_trained_layers is not None):
            raise ValueError(
                "num_trained_layers goes with tuning=last_layers and only with it, got "
                f"num_trained_layers={self.num_trained_layers} with tuning={self.tuning}"
            )
        check_at_least("num_trained_layers", self.num_trained_layers, 1)
        if self.trains_in_tangent_space:
            self._check_tangent()
        self.generation.check_reference(self.tuning, self.lora)
        if self.compute.quantise != "none" and self.tuning not in ("lora", "head"):
            raise ValueError(
                f"compute.quantise={self.compute.quantise} is for tuning=lora or head: tuning="
                f"{self.tuning} trains parameters of the checkpoint, and codes cannot be trained"
            )
        if self.compute.frozen_dtype != "float32" and self.tuning not in ("lora", "head"):
            raise ValueError(
                f"compute.frozen_dtype={self.compute.frozen_dtype} is for tuning=lora or head: "
                f"tuning={self.tuning} trains parameters of the checkpoint, which would be rounded"
            )

    def _check_tangent(self) -> None:
        """Refuses what sees how A B is split into A and B."""
        training = self.training
        if training.optimizer == "adamw":
            raise ValueError(
                "training.optimizer=adamw shrinks A and B one by one, and lora.gauge=tangent "
                "trains their product. Give training.optimizer=adam, adam-bc or sgd"
            )
        if training.ema_decay is not None:
            raise ValueError(
                f"training.ema_decay={training.ema_decay} averages A and B one by one, and the "
                "product of averages is not the average of products, which lora.gauge=tangent "
                "trains. Leave out one of them"
            )

    def _check_task(self) -> None:
        """Refuses options that the task would not read."""
        check_choice("task", self.task, get_args(TaskName))
        for name, (default, tasks) in _OPTIONS_OF_TASKS.items():
            value = operator.attrgetter(name)(self)
            if self.task not in tasks and value != default:
                raise ValueError(
                    f"{name} has no meaning with task={self.task}: leave it out, got {value!r}"
                )
        if self.task == "preference":
            self._check_reference()
        for name, default in _OF_NEW_HEAD.items():
            value = operator.attrgetter(name)(self)
            if self.reads_language_head and value != default:
                raise ValueError(
                    f"{name} is for a new head, and head.template with head.label_words reads the "
                    "label off the head that the model has: leave one of them out, or give "
                    f"features.layers, which makes a new one, got {value!r}"
                )

    def _check_reference(self) -> None:
        """Refuses what would train the model that a pair is compared with."""
        if self.tuning != "lora":
            raise ValueError(
                "task=preference compares with the checkpoint, which only adapters leave as it is: "
                f"give tuning=lora, got tuning={self.tuning}"
            )
        for name in ("bias", "modules_to_save"):
            value = getattr(self.lora, name)
            if value != getattr(LoraConfig, name):
                raise ValueError(
                    f"task=preference compares with the checkpoint, and lora.{name} trains "
                    f"parameters of it: leave it out, got {value!r}"
                )
