"""Everything that can go wrong before training is found here: no compilation, no training."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from dpjax_accounting import DPSGD, DatasetIdentity, calibrate_noise, default_delta, validate_delta

from dpjax.data import RecordColumns, TextDataset, encode, label_names, read_records
from dpjax.finetuning.config import FinetuneConfig, Privacy, Training
from dpjax.models import load_tokenizer, read_config, resolve_checkpoint

DEFAULT_EPOCHS = 3.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """A validated run: the data as arrays, and the mechanism that sampler, noise and accountant
    all read. Without privacy the mechanism and δ are None; without a ledger the identity is."""

    config: FinetuneConfig
    checkpoint: Path
    labels: tuple[str, ...]
    train: TextDataset
    evaluation: TextDataset
    num_steps: int
    mechanism: DPSGD | None
    delta: float | None
    delta_is_default: bool
    dataset: DatasetIdentity | None

    def fingerprint(self) -> str:
        """SHA-256 of the encoded training data: tells whether a resumed run sees the same."""
        return self.train.fingerprint()


def prepare(config: FinetuneConfig) -> Plan:
    """Checks checkpoint and data, encodes the records, and fixes the mechanism.

    Raises:
        FileNotFoundError, ValueError: something given does not exist or does not fit; the message
            says what was seen and what to do.
    """
    checkpoint = resolve_checkpoint(config.model)
    encoder = read_config(checkpoint)
    if config.training.max_length > encoder.max_positions:
        raise ValueError(
            f"training.max_length={config.training.max_length} is more than the "
            f"{encoder.max_positions} positions of {config.model}"
        )
    train_records = read_records(config.train_data)
    eval_records = read_records(config.eval_data)
    labels = label_names(train_records, eval_records)
    num_units = len(train_records.texts)
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
    tokenizer = load_tokenizer(checkpoint)
    train = encode(train_records, tokenizer, labels, config.training.max_length)
    evaluation = encode(eval_records, tokenizer, labels, config.training.max_length)
    mechanism = None
    if not config.non_private:
        mechanism = fix_mechanism(config.privacy, delta, num_units, batch, num_steps)
    return Plan(
        config=config,
        checkpoint=checkpoint,
        labels=labels,
        train=train,
        evaluation=evaluation,
        num_steps=num_steps,
        mechanism=mechanism,
        delta=None if config.non_private else delta,
        delta_is_default=config.privacy.delta is None,
        dataset=None if config.privacy.ledger is None else identity_of(train_records),
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
