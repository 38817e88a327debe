"""Everything that can go wrong before training is found here: no compilation, no training."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from dpjax_accounting import DatasetIdentity, Stepwise, default_delta, validate_delta

from dpjax.data import (
    DataSource,
    EncodedRecords,
    Owners,
    RecordColumns,
    RecordError,
    count_shared_texts,
)
from dpjax.finetuning.config import Compute, FinetuneConfig
from dpjax.finetuning.setup.mechanism import (
    check_extra,
    find_strategy,
    fix_noise,
    make_recipe,
    noise_of,
)
from dpjax.finetuning.setup.owners import OwnerTraining, TrainingRecords, as_user_sampled
from dpjax.finetuning.tasks.base import HeldOutPrompts, Task
from dpjax.finetuning.tasks.features import Features
from dpjax.finetuning.tasks.registry import make_task
from dpjax.models import head_names, load_tokenizer, read_config, resolve_checkpoint
from dpjax.privatize import (
    NoiseStrategy,
    StepNoise,
    check_discrete_noise,
    memory_of_default_device,
    num_steps_of,
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A validated run: the data as arrays, and the mechanism.

    Sampler, noise and accountant all read the one mechanism.

    Attributes:
        config: what was asked for.
        checkpoint: the folder of the pretrained model.
        task: with the labels of the training records.
        head: names of the parts of the model that tuning initialises.
        train_records: the training records as they were read, those that a step may draw.
        train: the same as arrays.
        owners: whose they are; None where each record is protected by itself.
        num_left_out: how many records were left out because their owners have too many.
        evaluation: the held-out records.
        eval_records: the same as they were read.
        prompts: what the tuned model answers in the report; None where there is nothing to answer.
        started_at: when the run was started, in local time: chat templates get this date, and a
            resumed run must have the same.
        num_steps: how many optimizer steps the run has.
        recipe: how batches are drawn and what sums are divided by, with privacy and without; the
            mechanism where there is one.
        mechanism: what the accountant counts; None without privacy.
        delta: δ of the guarantee; None without privacy.
        delta_is_default: whether δ was left to dpjax.
        dataset: what a ledger knows the records by; None without a ledger.
        noise_strategy: of correlated noise, once it is found; None of independent noise.
        device_memory: bytes that one device can use.
        choices: sentences on what dpjax chose by that, and why.
        features: what is computed once per record before the first step; None where steps compute
            everything. Of a run with `training.head_steps`: before the first step after these.
        head_features: likewise for the steps that train the head alone.
        owner_training: what an owner does in a step; None where it is one gradient.

    Example:
        >>> [field.name for field in dataclasses.fields(Plan)][:3]
        ['config', 'checkpoint', 'task']
    """

    config: FinetuneConfig
    checkpoint: Path
    task: Task
    head: tuple[str, ...]
    train_records: RecordColumns
    train: EncodedRecords
    owners: Owners | None
    num_left_out: int
    evaluation: EncodedRecords
    eval_records: RecordColumns
    prompts: HeldOutPrompts | None
    started_at: datetime.datetime
    num_steps: int
    recipe: Stepwise
    mechanism: Stepwise | None
    delta: float | None
    delta_is_default: bool
    dataset: DatasetIdentity | None
    device_memory: int
    noise_strategy: NoiseStrategy | None = None
    choices: tuple[str, ...] = ()
    features: Features | None = None
    head_features: Features | None = None
    owner_training: OwnerTraining | None = None

    @property
    def stages(self) -> tuple[Plan, ...]:
        """The stages of the run: those steps that train the head alone, if any, and the others.

        The first stage of two is as of a run of its own, but for the mechanism, which is that of
        all steps. A stage ends after `num_steps` steps of the run.
        """
        if self.first_step == 0:
            return (self,)
        config = self.config.head_stage()
        head = dataclasses.replace(
            self,
            config=config,
            num_steps=self.first_step,
            features=self.head_features,
            head_features=None,
        )
        return head, self

    @property
    def first_step(self) -> int:
        """The first step that trains what `tuning` says, counted from 0."""
        return self.config.training.head_steps or 0

    @property
    def noise(self) -> StepNoise:
        """σ and B of these steps."""
        return noise_of(self.recipe, self.first_step)

    @property
    def num_units(self) -> int:
        """What batches are drawn from: the number of records expected, whatever coins say.

        Where batches are of owners: the number of these.
        """
        sampled = self.owners if self.samples_owners else None
        return self.config.audit.num_units(len(self.train if sampled is None else sampled))

    @property
    def samples_owners(self) -> bool:
        """Whether batches are of owners, with up to `records_per_owner` records each."""
        return self.owners is not None and self.config.samples_owners

    @property
    def num_shared_texts(self) -> int:
        """How many training records have the tokens of another unit's record; private."""
        owner_of = None if self.owners is None else self.owners.owner_of
        return count_shared_texts(self.train, owner_of)

    @property
    def microbatch_size(self) -> int:
        """Records that are processed at once; `auto` must have been resolved."""
        size = self.config.training.microbatch_size
        if isinstance(size, str):
            raise ValueError(f"training.microbatch_size={size} must be resolved before a step")
        return size

    @property
    def audit_delta(self) -> float:
        """δ of what an audit finds: that of the guarantee, or the default one without privacy."""
        return default_delta(len(self.train)) if self.delta is None else self.delta

    def options(self) -> dict[str, Any]:
        """Returns the options as a run keeps them: with the format of records that auto found."""
        source = dataclasses.replace(
            self.config.train_data, record_format=self.train_records.record_format
        )
        config = dataclasses.replace(self.config, train_data=source, resume=False)
        return config.to_dict()

    def fingerprint(self) -> str:
        """SHA-256 of the encoded training data: tells whether a resumed run sees the same."""
        if self.owners is None:
            return self.train.fingerprint()
        return f"{self.train.fingerprint()}, owners {self.owners.fingerprint()}"


def prepare(
    config: FinetuneConfig,
    *,
    started_at: datetime.datetime | None = None,
    device_memory: int | None = None,
    owner_training: OwnerTraining | None = None,
    adds_records: bool = False,
) -> Plan:
    """Checks checkpoint and data, encodes the records, and fixes the mechanism.

    Args:
        config: what was asked for.
        started_at: local time at which a resumed run was started; default: now.
        device_memory: bytes that one device can use; default: as `compute.device_memory_gb` says,
            or those of the default device.
        owner_training: what an owner does in a step; None where it is one gradient.
        adds_records: whether records will be added to those of the data.

    Raises:
        FileNotFoundError, ValueError: something given does not exist or does not fit; the message
            says what was seen and what to do.

    Example:
        >>> from dpjax.demo.checkpoint import find_minilm
        >>> config = FinetuneConfig(
        ...     model=str(find_minilm()),
        ...     train_data=DataSource("missing.csv"),
        ...     eval_data=DataSource("missing.csv"),
        ...     output_dir="runs/first",
        ...     non_private=True,
        ... )
        >>> try:
        ...     prepare(config)
        ... except FileNotFoundError:
        ...     print("refused before anything is written")
        refused before anything is written
    """
    started_at = datetime.datetime.now() if started_at is None else started_at
    check_extra(config.privacy)
    task = make_task(config, started_at)
    checkpoint = resolve_checkpoint(config.model, config.revision)
    model = read_config(checkpoint)
    # Before the data: an encoder's tokenizer is no fit for texts to be written either.
    head = head_names(model, task.model_task(model))
    head = head if task.makes_head else ()
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
    read_records, eval_records = task.read(config)
    records = TrainingRecords.of(read_records, config, owner_training)
    train_records, owners = records.used, records.owners
    task = task.with_training_records(train_records, eval_records)
    # The number must not tell how the coins fell.
    num_units = records.num_units(config)
    batch = config.training.expected_batch_size
    if config.privacy.sampling != "full-batch" and batch > num_units:
        kept = " that audit.hold_out keeps on average" if config.audit.hold_out else ""
        units = "owners of training records" if config.samples_owners else "training records"
        raise ValueError(
            f"training.expected_batch_size={batch} is more than the {num_units} {units} of "
            f"{config.train_data.path}{kept}; use at most {num_units}, better a tenth of it"
        )
    recipe = make_recipe(config.privacy, config.training, num_units)
    if config.samples_owners:
        recipe = as_user_sampled(recipe, config.privacy.records_per_owner)
    delta = config.privacy.delta
    if not config.non_private:
        # Records that a coin may leave out are protected too.
        num_protected = max(num_units, records.num_protected(config))
        delta = default_delta(num_protected) if delta is None else delta
        validate_delta(delta, num_protected)
    tokenizer = load_tokenizer(checkpoint, needs_padding=task.needs_padding_token)
    task = task.with_tokenizer(model, tokenizer)
    with _naming(config.train_data):
        train = task.encode(train_records, tokenizer, config.training.max_length)
    with _naming(config.eval_data):
        evaluation = task.encode(eval_records, tokenizer, config.training.max_length)
        prompts = task.prompts(config, eval_records, tokenizer)
    if not (config.audit.num_canaries or adds_records):
        # Records that are added later, such as canaries, may have more targets than any of these.
        task = task.with_encoded(train)
    _check_answers_fit(config, prompts, model.max_positions)
    if not config.non_private:
        recipe = fix_noise(recipe, config.privacy, delta)
        if config.privacy.noise_multiplier is not None:
            # Calibration has asked for it already. What is not accounted for is said here.
            recipe.epsilon(delta)
        if config.training.gradient == "zeroth-order":
            check_discrete_noise(recipe)
    return Plan(
        config=config,
        checkpoint=checkpoint,
        task=task,
        head=head,
        train_records=train_records,
        train=train,
        owners=owners,
        evaluation=evaluation,
        eval_records=eval_records,
        prompts=prompts,
        started_at=started_at,
        num_steps=num_steps_of(recipe),
        recipe=recipe,
        mechanism=None if config.non_private else recipe,
        delta=None if config.non_private else delta,
        delta_is_default=config.privacy.delta is None,
        num_left_out=records.num_left_out,
        dataset=None if config.privacy.ledger is None else records.identity(),
        device_memory=device_memory or known_device_memory(config.compute),
        owner_training=owner_training,
    )


def known_device_memory(compute: Compute) -> int:
    """Returns the bytes of one device: what is given, or those of the default device."""
    return compute.device_memory or memory_of_default_device()


def with_strategy(plan: Plan, stored: Mapping[str, Any]) -> Plan:
    """Returns the run with the strategy matrix of its noise, which takes seconds to find.

    Args:
        plan: what was asked for.
        stored: the identity of the run that is resumed, which has it; empty for a new one.

    Raises:
        ValueError: what is stored is damaged.
    """
    strategy = find_strategy(plan.config.privacy, plan.recipe, stored)
    return dataclasses.replace(plan, noise_strategy=strategy)


@contextmanager
def _naming(source: DataSource) -> Iterator[None]:
    """Says in errors about a record whose it is."""
    try:
        yield
    except RecordError as error:
        raise ValueError(f"{source.path}: {error}") from None


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
