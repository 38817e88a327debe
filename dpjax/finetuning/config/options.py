"""What a fine-tuning run is asked to do: one tree of dataclasses for Python and the shell."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from dpjax.data import DataSource

Tuning = Literal["lora", "full", "bias", "head", "last_layers"]


@dataclasses.dataclass(frozen=True)
class Privacy:
    """The promise: give either a target epsilon or a noise multiplier."""

    target_epsilon: float | None = None
    """The run's total ε; the noise multiplier is calibrated so that it is not exceeded."""
    noise_multiplier: float | None = None
    """Standard deviation of the noise divided by the clip norm."""
    delta: float | None = None
    """δ of the guarantee; default: 1e-5, or n^-1.1 for n training records if that is smaller."""
    clip_norm: float = 1.0
    """L2 norm that the gradient of one record is clipped to."""
    ledger: str | None = None
    """File in which all runs on these training records are put on record, made if there is none;
    the report then has the ε of all of them together. Keep it with the data, as private as that."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters beside frozen weights; used with tuning=lora."""

    rank: int = 8
    """Rank r of the update A·B."""
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    use_rslora: bool = False
    """Scale it by alpha / √rank instead."""
    target_modules: tuple[str, ...] = ("all-linear",)
    """Hugging Face names of the linear layers to adapt, or all-linear."""
    modules_to_save: tuple[str, ...] = ()
    """Hugging Face names of modules to train in full beside the head, such as LayerNorm."""
    layers_to_transform: tuple[int, ...] | None = None
    """Encoder layers to adapt, counted from 0; default: all. Adapting the upper ones only is
    faster, for no gradient is computed below the lowest."""
    freeze_a: bool = False
    """Train B only and leave A where it starts (FFA-LoRA: Sun et al. 2024): half as many
    parameters get noise, and the update is linear in them."""
    dropout: float = 0.0
    """Share of an adapter's inputs that are left out at random, others in every step and record."""
    start_a: Literal["random", "principal"] = "random"
    """Where A starts: at random, or at the principal components of the layer's inputs for texts of
    random words. Those see how texts differ and not what all have in common, so that less of the
    clip norm and of the noise is wasted; no private record is read, which costs no ε."""


@dataclasses.dataclass(frozen=True)
class Training:
    """The recipe, the same with and without privacy."""

    expected_batch_size: int = 256
    """Mean size of a Poisson batch; the sampling probability is this over the records."""
    microbatch_size: int = 32
    """Records processed at once: costs memory, changes nothing else."""
    num_epochs: float | None = None
    """Length of the run in expected passes over the data; default 3 if no num_steps is given."""
    num_steps: int | None = None
    """Length of the run in optimizer steps."""
    learning_rate: float = 2e-3
    """Peak learning rate of Adam."""
    head_learning_rate: float | None = None
    """Peak learning rate of the classification head, which starts from nothing; default:
    learning_rate."""
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


@dataclasses.dataclass(frozen=True)
class Compute:
    """How it is computed: changes time and memory, and results by rounding only."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations; what is trained, clipping and noise are always float32."""
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    """With tuning=lora or head, of the checkpoint's parameters. bfloat16 takes half the memory, and
    rounds them, unless they are in it already, and the merged model."""
    attention: Literal["einsum", "cudnn"] = "einsum"
    """cudnn is the fused kernel of an NVIDIA GPU, for dtype=bfloat16. Programs with
    it have been lowered for CUDA, and never run."""
    scan_layers: bool = False
    """Run the layers in a loop: compiles faster, for deep models."""
    rematerialise: bool = False
    """Compute the inside of layers again in the backward pass: needs less memory."""
    vocab_chunk: int | None = None
    """With task=causal_lm, hold the logits of this many tokens of the vocabulary at once; default:
    all. Some thousands save memory where the vocabulary is large."""


@dataclasses.dataclass(frozen=True)
class Generation:
    """Texts that the tuned model writes for the report; with task=causal_lm and prompts."""

    num_prompts: int = 8
    """How many held-out prompts are answered; 0 for none."""
    max_new_tokens: int = 64
    """Longest answer."""


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tune a pretrained language model with differential privacy."""

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
    task: Literal["sequence_classification", "causal_lm"] = "sequence_classification"
    """Label texts, or write them: a decoder learns texts, completions of prompts, or the
    assistant's part of conversations, as the columns of the data say."""
    separator: str = ""
    """With task=causal_lm, what stands between a prompt and its completion; counts as prompt."""
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
    lora: Lora = dataclasses.field(default_factory=Lora)
    training: Training = dataclasses.field(default_factory=Training)
    compute: Compute = dataclasses.field(default_factory=Compute)
    generation: Generation = dataclasses.field(default_factory=Generation)
    non_private: bool = False
    """The same recipe without clipping and noise. No privacy at all."""
    seed: int | None = None
    """Fix all randomness, for tests: whoever guesses the seed can undo the privacy."""
    resume: bool = False
    """Go on with the interrupted run in output_dir; start it if it has not used its key yet."""
    overwrite: bool = False
    """Delete the unfinished run in output_dir and start afresh."""

    def __post_init__(self) -> None:
        _check_privacy(self.privacy, self.non_private)
        _check_lora(self.lora)
        _check_tuning(self.tuning, self.num_trained_layers)
        _check_training(self.training)
        _check_compute(self.compute, self.generation)
        _check_task(self)
        if self.num_layers is not None and self.num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {self.num_layers}")
        if self.resume and self.overwrite:
            raise ValueError("resume goes on with the run that overwrite deletes: give one of them")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be in [0, 2**64), got {self.seed}")

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> FinetuneConfig:
        """Builds the tree from nested mappings or dataclasses.

        A plain string is accepted for a data source and means its path.

        Raises:
            TypeError: an option is unknown (the nearest valid name is given) or missing.
        """
        return _build(cls, options, "")


def _build(cls: type, options: Mapping[str, Any], prefix: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in options:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)[0]
            raise TypeError(f"unknown option {prefix}{name}; did you mean {prefix}{near}?")
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [prefix + name for name in required if name not in options]
    if missing:
        raise TypeError(f"missing option {', '.join(missing)}")
    hints = typing.get_type_hints(cls)
    return cls(
        **{name: _convert(hints[name], value, prefix + name) for name, value in options.items()}
    )


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if hint is DataSource and isinstance(value, (str, os.PathLike)):
            return DataSource(path=os.fspath(value))
        if isinstance(value, Mapping):
            return _build(hint, value, f"{name}.")
        raise TypeError(f"{name} must be a {hint.__name__} or a mapping, got {value!r}")
    if isinstance(value, list):
        value = tuple(value)
    if not _matches(hint, value):
        raise TypeError(f"{name} must be {_describe(hint)}, got {value!r}")
    return value


def _matches(hint: Any, value: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in args
    if origin in (types.UnionType, typing.Union):
        return any(_matches(arg, value) for arg in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(_matches(args[0], item) for item in value)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float))
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)


def _check_privacy(privacy: Privacy, non_private: bool) -> None:
    epsilon, noise = privacy.target_epsilon, privacy.noise_multiplier
    if non_private:
        if epsilon is not None or noise is not None:
            raise ValueError(
                "non_private=True trains without any privacy, but privacy.target_epsilon or "
                "privacy.noise_multiplier is given: drop one or the other"
            )
        if privacy.ledger is not None:
            raise ValueError(
                f"non_private=True has no ε to put into privacy.ledger={privacy.ledger}: drop one "
                "or the other"
            )
        return
    if epsilon is not None and noise is not None:
        raise ValueError(
            f"both privacy.target_epsilon={epsilon} and privacy.noise_multiplier={noise} are "
            "given; one follows from the other, so give one"
        )
    if epsilon is None and noise is None:
        raise ValueError(
            "give privacy.target_epsilon (for instance 3) or privacy.noise_multiplier; to train "
            "without privacy say non_private=True"
        )
    _check_positive("privacy.target_epsilon", epsilon)
    _check_positive("privacy.noise_multiplier", noise)
    _check_positive("privacy.clip_norm", privacy.clip_norm)
    if privacy.delta is not None and not 0 < privacy.delta < 1:
        raise ValueError(f"privacy.delta must be between 0 and 1, got {privacy.delta}")


def _check_tuning(tuning: str, num_trained_layers: int | None) -> None:
    tunings = typing.get_args(Tuning)
    if tuning not in tunings:
        near = difflib.get_close_matches(str(tuning), tunings, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"tuning must be one of {', '.join(tunings)}, got {tuning!r}; did you mean {near!r}?"
        )
    if (tuning == "last_layers") != (num_trained_layers is not None):
        raise ValueError(
            "num_trained_layers goes with tuning=last_layers and only with it, got "
            f"num_trained_layers={num_trained_layers} with tuning={tuning}"
        )
    if num_trained_layers is not None and num_trained_layers < 1:
        raise ValueError(f"num_trained_layers must be at least 1, got {num_trained_layers}")


def _check_lora(lora: Lora) -> None:
    if lora.rank < 1:
        raise ValueError(f"lora.rank must be at least 1, got {lora.rank}")
    _check_positive("lora.alpha", lora.alpha)
    if not 0 <= lora.dropout < 1:
        raise ValueError(f"lora.dropout must be at least 0 and below 1, got {lora.dropout}")
    if lora.start_a not in ("random", "principal"):
        raise ValueError(f"lora.start_a must be 'random' or 'principal', got {lora.start_a!r}")
    if not lora.target_modules:
        raise ValueError("lora.target_modules is empty: name layers, or all-linear")


def _check_training(training: Training) -> None:
    if training.num_epochs is not None and training.num_steps is not None:
        raise ValueError(
            f"both training.num_epochs={training.num_epochs} and "
            f"training.num_steps={training.num_steps} are given; give one"
        )
    for name in ("expected_batch_size", "microbatch_size", "num_steps", "max_length"):
        value = getattr(training, name)
        if value is not None and value < 1:
            raise ValueError(f"training.{name} must be at least 1, got {value}")
    _check_positive("training.num_epochs", training.num_epochs)
    _check_positive("training.learning_rate", training.learning_rate)
    _check_positive("training.head_learning_rate", training.head_learning_rate)
    _check_positive("training.checkpoint_every_seconds", training.checkpoint_every_seconds)
    if not 0 <= training.warmup_fraction < 1:
        raise ValueError(
            f"training.warmup_fraction must be in [0, 1), got {training.warmup_fraction}"
        )
    if not 0 <= training.label_smoothing < 1:
        raise ValueError(
            f"training.label_smoothing must be in [0, 1), got {training.label_smoothing}"
        )
    if training.loss_reduction not in ("mean", "sum"):
        raise ValueError(
            f"training.loss_reduction must be mean or sum, got {training.loss_reduction!r}"
        )
    if training.schedule not in ("constant", "linear", "cosine"):
        raise ValueError(
            f"training.schedule must be constant, linear or cosine, got {training.schedule!r}"
        )


def _check_compute(compute: Compute, generation: Generation) -> None:
    if compute.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"compute.dtype must be float32 or bfloat16, got {compute.dtype!r}")
    if compute.frozen_dtype not in ("float32", "bfloat16"):
        raise ValueError(
            f"compute.frozen_dtype must be float32 or bfloat16, got {compute.frozen_dtype!r}"
        )
    if compute.attention not in ("einsum", "cudnn"):
        raise ValueError(f"compute.attention must be einsum or cudnn, got {compute.attention!r}")
    if compute.vocab_chunk is not None and compute.vocab_chunk < 1:
        raise ValueError(f"compute.vocab_chunk must be at least 1, got {compute.vocab_chunk}")
    if generation.num_prompts < 0 or generation.max_new_tokens < 1:
        raise ValueError(
            "generation.num_prompts must be at least 0 and generation.max_new_tokens at least 1, "
            f"got {generation.num_prompts} and {generation.max_new_tokens}"
        )


def _check_task(config: FinetuneConfig) -> None:
    """Options of the other task are refused, instead of doing nothing."""
    if config.task not in ("sequence_classification", "causal_lm"):
        raise ValueError(f"task must be sequence_classification or causal_lm, got {config.task!r}")
    training, writes = config.training, config.task == "causal_lm"
    for_the_other = {
        "pooling": writes and config.pooling != "auto",
        "training.label_smoothing": writes and training.label_smoothing != 0,
        "training.head_learning_rate": writes and training.head_learning_rate is not None,
        "num_layers": writes and config.num_layers is not None,
        "separator": not writes and config.separator != "",
        "training.loss_reduction": not writes and training.loss_reduction != "mean",
        "compute.vocab_chunk": not writes and config.compute.vocab_chunk is not None,
    }
    given = [name for name, is_given in for_the_other.items() if is_given]
    if config.compute.frozen_dtype != "float32" and config.tuning not in ("lora", "head"):
        raise ValueError(
            f"compute.frozen_dtype={config.compute.frozen_dtype} is for tuning=lora or head: "
            f"tuning={config.tuning} trains parameters of the checkpoint, which would be rounded"
        )
    if given:
        raise ValueError(f"{given[0]} has no meaning with task={config.task}: leave it out")


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")
