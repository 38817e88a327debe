"""The options of the training recipe, and of the loss of pairs of answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

from dpjax.basics.option_checks import (
    CheckedOptions,
    check_at_least,
    check_choice,
    check_positive,
    check_share,
)
from dpjax.finetuning.config.privacy import Privacy

OptimizerName = Literal["adam", "adamw", "sgd", "adam-bc"]
GradientName = Literal["backward", "zeroth-order"]


@dataclasses.dataclass(frozen=True)
class Training(CheckedOptions):
    """The recipe, the same with and without privacy.

    Example:
        >>> Training(num_epochs=3.0).expected_batch_size
        256
    """

    expected_batch_size: int = 256
    """B, the mean size of a batch; the sampling probability is this over the records. Has no
    meaning with privacy.sampling=full-batch. With an owner column it counts owners, or records with
    privacy.owner_sampling=records."""
    microbatch_size: int | Literal["auto"] = 32
    """Records processed at once: costs memory, changes nothing else. auto takes the largest power
    of two that fits into memory, at most a quarter of expected_batch_size: it compiles steps and
    reads how much memory they need."""
    num_epochs: float | None = None
    """Length of the run in expected passes over the data; default 3 if no num_steps is given. Whole
    with privacy.sampling=random-allocation or shuffled, which account for epochs. With an owner
    column, how often each owner is drawn on average, or each record with
    privacy.owner_sampling=records."""
    num_steps: int | None = None
    """Length of the run in optimizer steps."""
    optimizer: OptimizerName = "adam"
    """What makes an update of the private gradient; none of them costs ε. adam-bc takes the
    variance of the noise off Adam's second moment (DP-AdamBC)."""
    gradient: GradientName = "backward"
    """Where gradients come from. backward: back-propagation. zeroth-order: forward passes alone, in
    little more memory than inference (DP-ZO): in each step, what the loss of a record changes by
    along random directions is clipped and given noise. ε is the same; it learns more slowly."""
    smoothing: float = 1e-3
    """With gradient=zeroth-order, φ: how far parameters are moved along a direction, both ways."""
    num_directions: int = 1
    """With gradient=zeroth-order, k: how many directions a step has. Each costs two forward passes;
    privacy.clip_norm bounds the k differences of a record together."""
    head_steps: int | None = None
    """So many of the run's steps, the first ones, train the classification head alone, and the
    others go on from there with all that `tuning` trains. The frozen part is computed once for the
    first. ε counts all steps together. Each stage has a learning rate that rises and falls, and an
    average, of its own."""
    head_batch_size: int | None = None
    """With head_steps, the expected batch size of the steps that train the head alone, which are
    cheap; default: expected_batch_size."""
    momentum: float = 0.9
    """With optimizer=sgd, how much of the update before is kept."""
    weight_decay: float = 0.01
    """With optimizer=adamw, how fast parameters shrink: by this share of them times the learning
    rate in each step."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    head_learning_rate: float | None = None
    """Peak learning rate of the classification head, which starts from nothing; default:
    learning_rate."""
    ema_decay: float | None = None
    """Tune as before, and export the moving average of the parameters: about the last
    1 / (1 - ema_decay) steps count. It evens out the noise of single steps and costs no ε."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls to zero after warm-up, or stays."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the learning rate rises linearly from zero."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all labels (Szegedy et al. 2016). It keeps logits from
    growing: records that are far on the right side of the boundary pull back, which clipped
    gradients of those on the wrong side do too little."""
    loss_reduction: Literal["mean", "sum"] = "mean"
    """With task=causal_lm, the loss of a record: mean or sum over its tokens that count."""
    max_length: int = 128
    """Longer texts are cut to this many tokens."""
    checkpoint_every_seconds: float = 60.0
    """How often the state is stored while training goes on: a crash loses no more work than that.
    """
    checkpoint_every_steps: int | None = None
    """Store the state after so many steps too, if that comes first."""
    keep_checkpoints: int = 2
    """How many states are kept: if the newest is damaged, the run goes on from the one before."""

    evaluate_every: int | None = None
    """Measure the model on the held-out records every so many steps, into metrics.jsonl; default:
    at the end only. No number of it chooses the model."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        if self.num_epochs is not None and self.num_steps is not None:
            raise ValueError(
                f"both training.num_epochs={self.num_epochs} and "
                f"training.num_steps={self.num_steps} are given; give one"
            )
        counts = ("expected_batch_size", "num_steps", "max_length")
        counts += ("head_steps", "head_batch_size")
        for name in (*counts, "checkpoint_every_steps", "keep_checkpoints"):
            check_at_least(f"training.{name}", getattr(self, name), 1)
        check_at_least("training.evaluate_every", self.evaluate_every, 1)
        if isinstance(self.microbatch_size, int):
            check_at_least("training.microbatch_size", self.microbatch_size, 1)
        elif self.microbatch_size != "auto":
            raise ValueError(
                "training.microbatch_size must be a whole number or auto, got "
                f"{self.microbatch_size!r}"
            )
        if self.head_batch_size is not None and self.head_steps is None:
            raise ValueError(
                f"training.head_batch_size={self.head_batch_size} is of the first steps, which "
                "train the head alone: give training.head_steps, or leave it out"
            )
        check_positive("training.num_epochs", self.num_epochs)
        check_positive("training.learning_rate", self.learning_rate)
        check_positive("training.head_learning_rate", self.head_learning_rate)
        check_positive("training.checkpoint_every_seconds", self.checkpoint_every_seconds)
        check_share("training.warmup_fraction", self.warmup_fraction)
        check_share("training.label_smoothing", self.label_smoothing)
        check_choice("training.loss_reduction", self.loss_reduction, ("mean", "sum"))
        check_choice("training.optimizer", self.optimizer, get_args(OptimizerName))
        check_choice("training.gradient", self.gradient, get_args(GradientName))
        check_positive("training.smoothing", self.smoothing)
        check_at_least("training.num_directions", self.num_directions, 1)
        check_share("training.momentum", self.momentum)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(
                f"training.ema_decay must be above 0 and below 1, got {self.ema_decay}; leave it "
                "out to export the parameters of the last step"
            )
        if self.weight_decay < 0:
            raise ValueError(f"training.weight_decay must be at least 0, got {self.weight_decay}")
        self._check_belongs("momentum", "optimizer", "sgd")
        self._check_belongs("weight_decay", "optimizer", "adamw")
        self._check_belongs("smoothing", "gradient", "zeroth-order")
        self._check_belongs("num_directions", "gradient", "zeroth-order")
        check_choice("training.schedule", self.schedule, ("constant", "linear", "cosine"))

    def _check_belongs(self, name: str, option: str, needed: str) -> None:
        """Raises ValueError if an option is given that one choice of another option reads alone."""
        default, chosen = type(self).__dataclass_fields__[name].default, getattr(self, option)
        if getattr(self, name) != default and chosen != needed:
            raise ValueError(
                f"training.{name} is for training.{option}={needed}, got {chosen}; leave it out"
            )


def check_gradients(
    privacy: Privacy, training: Training, non_private: bool, in_tangent_space: bool
) -> None:
    """Raises ValueError for what gradients, as they are clipped and estimated, do not go with.

    Args:
        privacy: the promise.
        training: the recipe.
        non_private: whether nothing is promised.
        in_tangent_space: whether steps of adapters are those of the tangent space.
    """
    _check_zeroth_order(privacy, training, non_private, in_tangent_space)
    _check_adaptive_clipping(privacy, training, non_private)


def _check_adaptive_clipping(privacy: Privacy, training: Training, non_private: bool) -> None:
    """Raises ValueError for what a clip norm that adapts is not accounted for with."""
    if privacy.target_quantile is None:
        return
    refused = {
        "non_private=True": (non_private, "nothing is clipped"),
        f"privacy.head_clip_norm={privacy.head_clip_norm}": (
            privacy.head_clip_norm is not None,
            "one count follows one clip norm",
        ),
        f"privacy.neighboring={privacy.neighboring}": (
            privacy.neighboring != "add_or_remove_one",
            "a unit that contributes nothing still counts as one that was not clipped",
        ),
        f"privacy.sampling={privacy.sampling}": (
            privacy.sampling != "poisson",
            "the count is accounted for with Poisson batches",
        ),
        f"privacy.noise={privacy.noise}": (
            privacy.noise != "independent",
            "noise that takes back earlier noise needs one clip norm",
        ),
        f"privacy.owner_sampling={privacy.owner_sampling}": (
            privacy.owner_sampling != "owners",
            "an owner would count several times",
        ),
        f"training.head_steps={training.head_steps}": (
            training.head_steps is not None,
            "the head alone needs another clip norm than all that is trained",
        ),
        f"training.optimizer={training.optimizer}": (
            training.optimizer == "adam-bc",
            "it takes off the variance of noise that is the same in all steps",
        ),
        f"training.gradient={training.gradient}": (
            training.gradient == "zeroth-order",
            "differences of losses are clipped there, not gradients",
        ),
    }
    _refuse(refused, f"privacy.target_quantile={privacy.target_quantile}")


def check_laplace(privacy: Privacy, training: Training, owner_column: str | None) -> None:
    """Raises ValueError for what Laplace noise is not accounted for with.

    Args:
        privacy: the promise.
        training: the recipe.
        owner_column: of the training records; None where each is protected by itself.
    """
    if privacy.noise_distribution != "laplace":
        return
    if training.gradient != "zeroth-order":
        raise ValueError(
            "privacy.noise_distribution=laplace is for the one number that a step of "
            "training.gradient=zeroth-order releases, got training.gradient="
            f"{training.gradient}. Leave it out, or give training.gradient=zeroth-order"
        )
    refused = {
        f"training.num_directions={training.num_directions}": (
            training.num_directions != 1,
            "differences along several directions are clipped in L2 norm, and it needs L1",
        ),
        f"privacy.sampling={privacy.sampling}": (
            privacy.sampling != "poisson",
            "it is accounted for with Poisson batches",
        ),
        f"training.head_batch_size={training.head_batch_size}": (
            training.head_batch_size is not None,
            "it is accounted for with batches of one mean size",
        ),
        f"train_data.owner_column={owner_column}": (
            owner_column is not None,
            "it is accounted for with records as units",
        ),
    }
    _refuse(refused, "privacy.noise_distribution=laplace")


def _check_zeroth_order(
    privacy: Privacy, training: Training, non_private: bool, in_tangent_space: bool
) -> None:
    """Raises ValueError for what needs more than the differences of losses that are released."""
    if training.gradient != "zeroth-order":
        return
    refused = {
        "non_private=True": (non_private, "every difference is clipped and given noise"),
        f"privacy.head_clip_norm={privacy.head_clip_norm}": (
            privacy.head_clip_norm is not None,
            "a difference of losses belongs to all that is trained, and has no part of the head",
        ),
        f"privacy.noise={privacy.noise}": (
            privacy.noise != "independent",
            "every step has new directions, along which earlier noise cannot be taken back",
        ),
        f"training.optimizer={training.optimizer}": (
            training.optimizer == "adam-bc",
            "noise lies along the directions, and adam-bc takes off that of single coordinates",
        ),
        "lora.gauge=tangent": (
            in_tangent_space,
            "it takes the gradients of A and B for those of one matrix, and estimates are not",
        ),
    }
    _refuse(refused, "training.gradient=zeroth-order")


def _refuse(refused: Mapping[str, tuple[bool, str]], other: str) -> None:
    for option, (is_given, reason) in refused.items():
        if is_given:
            raise ValueError(f"{option} does not go with {other}: {reason}. Leave out one of them")


@dataclasses.dataclass(frozen=True)
class Preference(CheckedOptions):
    """The loss of Direct Preference Optimization (Rafailov et al. 2023, arXiv:2305.18290).

    Example:
        >>> Preference().beta
        0.1
    """

    beta: float = 0.1
    """How strongly the model is kept at the checkpoint: the reward of an answer is beta times how
    much more probable tuning has made it, in nats. A small one lets the model go further."""
    label_smoothing: float = 0.0
    """How often, at least 0 and below 0.5, the order of a pair is expected to be wrong: a pair that
    the model has right then pulls back a little (Mitchell 2023)."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        check_positive("preference.beta", self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(
                "preference.label_smoothing must be at least 0 and below 0.5, got "
                f"{self.label_smoothing}"
            )
