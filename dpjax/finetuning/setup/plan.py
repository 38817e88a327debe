"""Everything that can go wrong before training is found here: no compilation, no training."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from dpjax_accounting import DPSGD, DatasetIdentity, calibrate_noise, default_delta, validate_delta

from dpjax.data import (
    DataSource,
    EncodedPrompts,
    EncodedRecords,
    Prompt,
    RecordColumns,
    RecordError,
    Records,
    Texts,
    encode_prompts,
    find_prompts,
)
from dpjax.finetuning.config.options import FinetuneConfig, Privacy, Training
from dpjax.finetuning.tasks.registry import CausalLanguage, SequenceClassification, task_of
from dpjax.models import head_names, load_tokenizer, read_config, resolve_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_EPOCHS = 3.0


@dataclasses.dataclass(frozen=True)
class HeldOutPrompts:
    """Prompts that the tuned model is to answer in the report, and their tokens.

    `num_without` counts the held-out conversations that begin with the assistant's last message:
    there is nothing to answer.
    """

    prompts: list[Prompt]
    encoded: EncodedPrompts
    num_without: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """A validated run: the data as arrays, and the mechanism that sampler, noise and accountant
    all read.

    `head` names the parts of the model that tuning makes anew. Without privacy the mechanism and δ
    are None; without a ledger the identity is; without prompts to answer in the report, `prompts`
    is. `started_at` is when the run was started, in local time: chat templates get this date, and a
    resumed run must have the same.
    """

    config: FinetuneConfig
    checkpoint: Path
    task: SequenceClassification | CausalLanguage
    head: tuple[str, ...]
    train: EncodedRecords
    evaluation: EncodedRecords
    prompts: HeldOutPrompts | None
    started_at: datetime.datetime
    num_steps: int
    mechanism: DPSGD | None
    delta: float | None
    delta_is_default: bool
    dataset: DatasetIdentity | None

    def fingerprint(self) -> str:
        """SHA-256 of the encoded training data: tells whether a resumed run sees the same."""
        return self.train.fingerprint()


def prepare(config: FinetuneConfig, *, started_at: datetime.datetime | None = None) -> Plan:
    """Checks checkpoint and data, encodes the records, and fixes the mechanism.

    Args:
        started_at: local time at which a resumed run was started; default: now.

    Raises:
        FileNotFoundError, ValueError: something given does not exist or does not fit; the message
            says what was seen and what to do.
    """
    started_at = datetime.datetime.now() if started_at is None else started_at
    checkpoint = resolve_checkpoint(config.model, config.revision)
    model = read_config(checkpoint)
    # Before the data: an encoder's tokenizer is no fit for texts to be written either.
    head = head_names(model, config.task)
    if config.compute.attention == "cudnn" and jax.default_backend() != "gpu":
        raise ValueError(
            f"compute.attention=cudnn needs an NVIDIA GPU; JAX computes on {jax.devices()[0]} here"
        )
    if config.training.max_length > model.max_positions:
        raise ValueError(
            f"training.max_length={config.training.max_length} is more than the "
            f"{model.max_positions} positions of {config.model}; give "
            f"training.max_length={model.max_positions} or less"
        )
    task = task_of(config, started_at)
    train_records, eval_records = task.read(config)
    if isinstance(task, SequenceClassification):
        task = task.with_labels_of(train_records, eval_records)
    num_units = len(train_records)
    batch = config.training.expected_batch_size
    if batch > num_units:
        raise ValueError(
            f"training.expected_batch_size={batch} is more than the {num_units} training records "
            f"of {config.train_data.path}; use at most {num_units}, better a tenth of it"
        )
    num_steps = planned_steps(config.training, num_units)
    delta = config.privacy.delta
    if not config.non_private:
        delta = default_delta(num_units) if delta is None else delta
        validate_delta(delta, num_units)
    tokenizer = load_tokenizer(checkpoint, needs_padding=config.task != "causal_lm")
    with _naming(config.train_data):
        train = task.encoded(train_records, tokenizer, config.training.max_length)
    with _naming(config.eval_data):
        evaluation = task.encoded(eval_records, tokenizer, config.training.max_length)
        prompts = _prompts(config, eval_records, tokenizer, started_at)
    _check_answers_fit(config, prompts, model.max_positions)
    mechanism = None
    if not config.non_private:
        mechanism = fix_mechanism(config.privacy, delta, num_units, batch, num_steps)
    return Plan(
        config=config,
        checkpoint=checkpoint,
        task=task,
        head=head,
        train=train,
        evaluation=evaluation,
        prompts=prompts,
        started_at=started_at,
        num_steps=num_steps,
        mechanism=mechanism,
        delta=None if config.non_private else delta,
        delta_is_default=config.privacy.delta is None,
        dataset=None if config.privacy.ledger is None else identity_of(train_records),
    )


@contextmanager
def _naming(source: DataSource) -> Iterator[None]:
    """Says in errors about a record whose it is."""
    try:
        yield
    except RecordError as error:
        raise ValueError(f"{source.path}: {error}") from None


def _prompts(
    config: FinetuneConfig,
    records: RecordColumns,
    tokenizer: PreTrainedTokenizerBase,
    started_at: datetime.datetime,
) -> HeldOutPrompts | None:
    """The held-out prompts to answer: whatever could be wrong with them is found before training.

    Labelled records and texts have none.
    """
    wanted = config.generation.num_prompts
    if not wanted or isinstance(records, Records | Texts):
        return None
    found = find_prompts(records)
    chosen = found[:wanted]
    encoded = encode_prompts(
        chosen,
        tokenizer,
        config.training.max_length,
        separator=config.separator,
        today=started_at,
    )
    return HeldOutPrompts(chosen, encoded, len(records) - len(found))


def _check_answers_fit(
    config: FinetuneConfig, prompts: HeldOutPrompts | None, max_positions: int
) -> None:
    longest = config.training.max_length + config.generation.max_new_tokens
    if prompts is not None and longest > max_positions:
        raise ValueError(
            f"generation.max_new_tokens={config.generation.max_new_tokens} after prompts of up to "
            f"training.max_length={config.training.max_length} tokens is more than the "
            f"{max_positions} positions of {config.model}; lower one of them"
        )


def identity_of(records: RecordColumns) -> DatasetIdentity:
    """What a ledger knows the training data by: the records as they were read."""
    return DatasetIdentity.of(records.units())


def planned_steps(training: Training, num_units: int) -> int:
    """Optimizer steps of the run: as given, or ⌈epochs / sampling probability⌉."""
    if training.num_steps is not None:
        return training.num_steps
    epochs = DEFAULT_EPOCHS if training.num_epochs is None else training.num_epochs
    return math.ceil(epochs * num_units / training.expected_batch_size)


def fix_mechanism(
    privacy: Privacy, delta: float, num_units: int, expected_batch_size: int, num_steps: int
) -> DPSGD:
    """The DP-SGD mechanism with the noise multiplier given, or calibrated to the target ε."""
    if privacy.noise_multiplier is not None:
        return DPSGD(num_units, expected_batch_size, privacy.noise_multiplier, num_steps)
    return calibrate_noise(privacy.target_epsilon, delta, num_units, expected_batch_size, num_steps)
