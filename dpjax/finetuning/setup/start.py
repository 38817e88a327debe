"""From what was asked for to a run that can start: every check comes before any training."""

from __future__ import annotations

import dataclasses
import datetime
import secrets
from typing import Any

import jax
import numpy as np

from dpjax.data import EncodedRecords
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.files.run_directory import RunDirectory, RunState
from dpjax.finetuning.result import FinetuneResult, load_result, result_of_lead
from dpjax.finetuning.setup import identity
from dpjax.finetuning.setup.audited_records import AuditedRecords, prepare_audit
from dpjax.finetuning.setup.automatic.cache_frozen import resolve_cache
from dpjax.finetuning.setup.automatic.microbatch_size import resolve_auto
from dpjax.finetuning.setup.automatic.resumed import resumed_auto
from dpjax.finetuning.setup.automatic.scan_layers import resolve_scan_layers
from dpjax.finetuning.setup.automatic.vocab_chunk import resolve_vocab_chunk
from dpjax.finetuning.setup.model.feature_store import FeatureStore
from dpjax.finetuning.setup.model.initial_a import (
    starts_at_principal_a,
    with_a_of_lead,
    with_stored_a,
)
from dpjax.finetuning.setup.model.load import load_model, model_layout
from dpjax.finetuning.setup.owners import OwnerTraining
from dpjax.finetuning.setup.plan import Plan, known_device_memory, prepare, with_strategy
from dpjax.finetuning.setup.run_ledger import ledger_of
from dpjax.models import SplitModel
from dpjax.privatize import RunKey
from dpjax.training import (
    Checkpoints,
    DirectoryLock,
    Layout,
    RunLedger,
    choose_mesh,
    describe_mesh,
    from_lead,
    in_all,
    in_lead,
    initialize_distributed,
)


@dataclasses.dataclass(frozen=True)
class PlantedRecords:
    """Records that are added to the training data of one run, and count in no number of it.

    Attributes:
        slots: the training records, and after them all records that may be added.
        present: `(S,)` bool, which of the S slots training takes.
    """

    slots: EncodedRecords
    present: np.ndarray


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has passed every check and has yet to be executed.

    Attributes:
        plan: the data, the task and the mechanism.
        directory: where it writes.
        run_key: its secret.
        run_id: names it in its privacy report and in the ledger, if it keeps one.
        identity: what must be the same when it is resumed.
        ledger: its place in the ledger of the data set; None without one.
        model: what it trains, split by what is trained.
        layout: where its parameters lie; None for a single device.
        audited: the records with coins; None without an audit.
        lock: of the folder, where that was there already; None where another process keeps files.
        resumes: whether it goes on with one that was interrupted.
        notices: sentences for whoever asked for the run.
        features: of the records that training may draw from; None before they are computed, and
            where steps compute everything.
        planted: records that are added to those of the plan; None where none are. Sampling and
            noise stay as the plan says.
    """

    plan: Plan
    directory: RunDirectory
    run_key: RunKey
    run_id: str
    identity: dict[str, Any]
    ledger: RunLedger | None
    model: SplitModel
    layout: Layout | None
    audited: AuditedRecords | None
    lock: DirectoryLock | None
    resumes: bool
    notices: tuple[str, ...]
    features: FeatureStore | None = None
    planted: PlantedRecords | None = None

    @property
    def slots(self) -> EncodedRecords:
        """All records that training may draw from, those too that coins leave out."""
        if self.planted is not None:
            return self.planted.slots
        return self.plan.train if self.audited is None else self.audited.slots

    @property
    def present(self) -> np.ndarray | None:
        """`(S,)` bool, which of S slots, or owners, training takes; None for all."""
        if self.planted is not None:
            return self.planted.present
        return None if self.audited is None else self.audited.present

    @property
    def checkpoints(self) -> Checkpoints:
        """The states that are stored while it trains."""
        return Checkpoints(self.directory.checkpoint, self.plan.config.training.keep_checkpoints)

    @property
    def trained_records(self) -> EncodedRecords:
        """The training records that no coin has left out, without canaries."""
        train = self.plan.train
        if self.audited is None or self.audited.canaries is not None:
            return train
        return train.take(np.flatnonzero(self.audited.present))


@dataclasses.dataclass(frozen=True)
class MeasuredRun:
    """A run that wrote all its results and was stopped while its secrets were deleted."""

    directory: RunDirectory
    lock: DirectoryLock | None
    result: FinetuneResult


def set_up(
    config: FinetuneConfig,
    owner_training: OwnerTraining | None = None,
    *,
    adds_records: bool = False,
) -> Run | MeasuredRun:
    """Does all that can fail because of what was asked: nothing is compiled or written.

    There are four exceptions: several processes are joined, the model writes canaries of kind
    high-temperature here, training.microbatch_size=auto compiles steps, and the matrix of
    correlated noise is searched for.

    Where several processes train, each must call this. Process 0 alone looks at the folder.

    Args:
        config: what was asked for.
        owner_training: what an owner does in a step; None where it is one gradient.
        adds_records: whether the caller adds records to those of the data.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: what was wrong, the value seen, what to do.
            What is wrong in one process, all raise.
        RunInUse: another process has the folder.

    Example:
        >>> from pathlib import Path
        >>> from dpjax.demo.checkpoint import find_minilm
        >>> from dpjax.demo.run import write_data
        >>> train, held_out = write_data(Path("clinic"))
        >>> files = {"train_data": str(train), "eval_data": str(held_out), "output_dir": "run"}
        >>> promise = {"privacy": {"target_epsilon": 3.0}, "training": {"num_steps": 2}}
        >>> options = {"model": str(find_minilm()), "tuning": "head"} | files | promise
        >>> run = set_up(FinetuneConfig.from_options(options))
        >>> run.plan.mechanism.num_steps, run.directory.path.exists()
        (2, False)
    """
    initialize_distributed(config.compute.distributed)
    identity.check_options_agree(config)
    _check_fits_processes(config)
    directory = RunDirectory(config.output_dir)
    lock = in_lead(lambda: directory.lock() if directory.private.is_dir() else None)
    try:
        state, notices = from_lead(lambda: _find_state(config, directory))
        if RunState[state] is RunState.MEASURED:
            result = result_of_lead(directory.path, in_lead(lambda: load_result(directory)))
            return MeasuredRun(directory, lock, result)
        resumes = RunState[state] is RunState.UNFINISHED
        return _make_run(
            config, directory, lock, resumes, tuple(notices), owner_training, adds_records
        )
    except BaseException:
        if lock is not None:
            lock.release()
        raise


def _find_state(config: FinetuneConfig, directory: RunDirectory) -> tuple[str, tuple[str, ...]]:
    """Finds the name of what to go on from, NEW if from nothing, and what to say about it."""
    if config.overwrite:
        directory.check_replaceable()
        return RunState.NEW.name, directory.remarks_on_clearing()
    if not config.resume:
        directory.check_free()
        return RunState.NEW.name, ()
    state = directory.check_resumable()
    if state in (RunState.NEW, RunState.NOT_STARTED):
        return RunState.NEW.name, (
            f"nothing to resume: {directory.path} holds {state.value}; the run starts there",
        )
    return state.name, directory.remarks_on_resuming()


def _make_run(
    config: FinetuneConfig,
    directory: RunDirectory,
    lock: DirectoryLock | None,
    resumes: bool,
    notices: tuple[str, ...],
    owner_training: OwnerTraining | None,
    adds_records: bool,
) -> Run:
    stored = from_lead(lambda: identity.read(directory.identity)) if resumes else {}
    now = from_lead(lambda: datetime.datetime.now().replace(microsecond=0).isoformat())
    started_at = datetime.datetime.fromisoformat(stored["started_at"] if resumes else now)
    if resumes:
        config, said = resumed_auto(config, stored)
        notices += said
    size = config.training.microbatch_size
    # What is wrong with a mesh is said before records are read, also where a size is yet to be
    # found: as many as there are devices can be shared by any of them.
    layout, on_devices = _choose_layout(
        config, jax.device_count() * config.records_per_unit if size == "auto" else size
    )
    # Another number may mean another strategy, and that other roundings.
    memory = from_lead(lambda: stored.get("device_memory") or known_device_memory(config.compute))
    prepared = in_all(
        lambda: prepare(
            config,
            started_at=started_at,
            device_memory=memory,
            owner_training=owner_training,
            adds_records=adds_records,
        )
    )
    prepared = resolve_scan_layers(prepared)
    prepared = resolve_vocab_chunk(prepared, 1 if layout is None else layout.devices_of_rows)
    prepared = resolve_cache(with_strategy(prepared, stored), stored)
    plan, said = resolve_auto(prepared)
    notices += said
    if size == "auto":
        layout, on_devices = _choose_layout(config, plan.microbatch_size)
    mesh = describe_mesh(None if layout is None else layout.mesh)
    described = in_all(lambda: identity.describe(plan, mesh))
    identity.check_plans_agree(described)
    if resumes:
        identity.check_same(stored, described)
        on_devices += identity.remarks_on_devices(stored, described)
        checkpoints = Checkpoints(directory.checkpoint, config.training.keep_checkpoints)
        notices += tuple(from_lead(lambda: checkpoints.find().remarks))
    run_key = _shared_key(config, directory, resumes)
    run_id = stored["run_id"] if resumes else from_lead(lambda: secrets.token_hex(16))
    ledger = ledger_of(plan, run_key, run_id)
    if ledger is not None:
        in_lead(ledger.check)
    sealed_in = directory.path if resumes else None
    plan, audited = in_all(lambda: prepare_audit(plan, run_key, sealed_in))
    model = in_all(lambda: load_model(plan, run_key, layout))
    if resumes and starts_at_principal_a(config):
        model = _with_stored_a(plan, run_key, model, directory)
    return Run(
        plan=plan,
        directory=directory,
        run_key=run_key,
        run_id=run_id,
        identity={"run_id": run_id, "started_at": started_at.isoformat(), **described},
        ledger=ledger,
        model=model,
        layout=layout,
        audited=audited,
        lock=lock,
        resumes=resumes,
        notices=notices + on_devices,
    )


def _with_stored_a(
    plan: Plan, run_key: RunKey, model: SplitModel, directory: RunDirectory
) -> SplitModel:
    """The model with the A that the run was started with, which process 0 reads."""
    if jax.process_count() == 1:
        return with_stored_a(model, directory.start_a)

    def read() -> SplitModel:
        return with_stored_a(load_model(plan, run_key, None), directory.start_a)

    return with_a_of_lead(model, in_lead(read, takes_long=True))


def _shared_key(config: FinetuneConfig, directory: RunDirectory, resumes: bool) -> RunKey:
    """The secret of the run, which process 0 makes or reads; it sends it to the others."""

    def make() -> RunKey:
        if resumes:
            return directory.load_key()
        return new_run_key(config)

    own = in_lead(make)
    return RunKey.from_dict(from_lead(lambda: own.to_dict() if own else {}))


def new_run_key(config: FinetuneConfig) -> RunKey:
    """Returns a fresh secret with the generator that was asked for; of a fixed seed, if any."""
    generator = config.privacy.generator
    if config.seed is None:
        return RunKey.from_os_entropy(generator=generator)
    return RunKey.from_seed(config.seed, generator=generator)


def _check_fits_processes(config: FinetuneConfig) -> None:
    """Refuses what one process alone can do, where several train."""
    if jax.process_count() == 1:
        return
    if config.training.head_steps is not None:
        raise ValueError(
            f"training.head_steps={config.training.head_steps} is for one process, got "
            f"{jax.process_count()}: train the head in a run of its own, or leave it out"
        )
    for name, value in (
        ("features.layers", config.features.layers),
        ("head.label_words", () if config.reads_language_head else config.head.label_words),
    ):
        if value:
            raise ValueError(
                f"{name} must be left out where {jax.process_count()} processes train, got "
                f"{list(value)}: each would look at the model by itself"
            )
    if config.audit.kind == "high-temperature":
        raise ValueError(
            "audit.kind must be another one than high-temperature where "
            f"{jax.process_count()} processes train: each would have the model write canaries of "
            "its own"
        )


def _choose_layout(
    config: FinetuneConfig, microbatch_size: int
) -> tuple[Layout | None, tuple[str, ...]]:
    """Where the parameters lie, None for a single device; and what there is to say about it."""
    size, size_name = microbatch_size, "training.microbatch_size"
    if config.records_per_unit > 1:
        # The rows that devices share are owners.
        size = max(1, size // config.records_per_unit)
        size_name += " / privacy.records_per_owner"
    mesh, notice = choose_mesh(config.compute.mesh, size, name="compute.mesh", size_name=size_name)
    notices = (notice,) if notice else ()
    if mesh is None and jax.process_count() > 1:
        raise ValueError(f"several processes must share all devices, but {notice}")
    if mesh is None:
        return None, notices
    privacy = config.privacy
    for option, value, is_given in (
        ("lora.gauge", config.lora.gauge, config.trains_in_tangent_space),
        ("compute.quantise", config.compute.quantise, config.compute.quantise != "none"),
        ("privacy.target_quantile", privacy.target_quantile, privacy.target_quantile is not None),
    ):
        if is_given:
            raise ValueError(
                f"{option}={value} is for one device, got {describe_mesh(mesh)}: let JAX see one, "
                f"as with CUDA_VISIBLE_DEVICES=0, or leave out {option}"
            )
    return model_layout(mesh), notices
