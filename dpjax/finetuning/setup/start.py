"""From what was asked for to a run that can start: every check comes before any training."""

from __future__ import annotations

import dataclasses
import datetime
import secrets
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.data import EncodedRecords
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.files.run_directory import RunDirectory, RunState
from dpjax.finetuning.result import FinetuneResult, load_result
from dpjax.finetuning.setup import identity
from dpjax.finetuning.setup.audited_records import AuditedRecords, prepare_audit
from dpjax.finetuning.setup.initial_a import starts_at_principal_a, with_stored_a
from dpjax.finetuning.setup.microbatch_size import resolve_auto, resumed_auto
from dpjax.finetuning.setup.plan import Plan, prepare, with_strategy
from dpjax.finetuning.setup.run_ledger import ledger_of
from dpjax.models import (
    SplitModel,
    Trainable,
    add_lora,
    num_stacked_axes,
    split_trainable,
    tensor_axis,
)
from dpjax.privatize import RunKey
from dpjax.training import (
    Checkpoints,
    DirectoryLock,
    Layout,
    RunLedger,
    choose_mesh,
    describe_mesh,
    initialize_distributed,
    spread,
)


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
        lock: of the folder, where that was there already.
        resumes: whether it goes on with one that was interrupted.
        notices: sentences for whoever asked for the run.
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


def set_up(config: FinetuneConfig) -> Run | MeasuredRun:
    """Does all that can fail because of what was asked: nothing is compiled or written.

    There are four exceptions: several processes are joined, the model writes canaries of kind
    high-temperature here, training.microbatch_size=auto compiles steps, and the matrix of
    correlated noise is searched for.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: what was wrong, the value seen, what to do.
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
    directory = RunDirectory(config.output_dir)
    lock = directory.lock() if directory.private.is_dir() else None
    try:
        state, notices = _find_state(config, directory)
        if state is RunState.MEASURED:
            return MeasuredRun(directory, lock, load_result(directory))
        return _make_run(config, directory, lock, state is RunState.UNFINISHED, notices)
    except BaseException:
        if lock is not None:
            lock.release()
        raise


def _find_state(
    config: FinetuneConfig, directory: RunDirectory
) -> tuple[RunState, tuple[str, ...]]:
    """Finds what to go on from, NEW if from nothing, and what there is to say about it."""
    if config.overwrite:
        directory.check_replaceable()
        return RunState.NEW, directory.remarks_on_clearing()
    if not config.resume:
        directory.check_free()
        return RunState.NEW, ()
    state = directory.check_resumable()
    if state in (RunState.NEW, RunState.NOT_STARTED):
        return RunState.NEW, (
            f"nothing to resume: {directory.path} holds {state.value}; the run starts there",
        )
    return state, directory.remarks_on_resuming()


def _make_run(
    config: FinetuneConfig,
    directory: RunDirectory,
    lock: DirectoryLock | None,
    resumes: bool,
    notices: tuple[str, ...],
) -> Run:
    stored = identity.read(directory.identity) if resumes else {}
    started_at = datetime.datetime.now().replace(microsecond=0)
    if resumes:
        started_at = datetime.datetime.fromisoformat(stored["started_at"])
        config, said = resumed_auto(config, stored)
        notices += said
    size = config.training.microbatch_size
    # What is wrong with a mesh is said before records are read, also where a size is yet to be
    # found: as many as there are devices can be shared by any of them.
    layout, on_devices = _choose_layout(
        config, jax.device_count() * config.records_per_unit if size == "auto" else size
    )
    prepared = with_strategy(prepare(config, started_at=started_at), stored)
    plan, said = resolve_auto(prepared)
    notices += said
    if size == "auto":
        layout, on_devices = _choose_layout(config, plan.microbatch_size)
    described = identity.describe(plan, describe_mesh(None if layout is None else layout.mesh))
    if resumes:
        identity.check_same(stored, described)
        on_devices += identity.remarks_on_devices(stored, described)
        checkpoints = Checkpoints(directory.checkpoint, config.training.keep_checkpoints)
        notices += checkpoints.find().remarks
        run_key, run_id = directory.load_key(), stored["run_id"]
    else:
        seed = config.seed
        run_key = RunKey.from_os_entropy() if seed is None else RunKey.from_seed(seed)
        run_id = secrets.token_hex(16)
    ledger = ledger_of(plan, run_key, run_id)
    if ledger is not None:
        ledger.check()
    plan, audited = prepare_audit(plan, run_key, directory.path if resumes else None)
    model = _load_model(plan, run_key, layout)
    if resumes and starts_at_principal_a(config):
        model = with_stored_a(model, directory.start_a)
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


def _choose_layout(
    config: FinetuneConfig, microbatch_size: int
) -> tuple[Layout | None, tuple[str, ...]]:
    """Where the parameters lie, None for a single device; and what there is to say about it."""
    if jax.process_count() > 1:
        raise ValueError(
            f"finetune runs in one process, got {jax.process_count()}: every one would write the "
            "folder of the run. Start it without jax.distributed.initialize, or take dpjax.fit"
        )
    size, size_name = microbatch_size, "training.microbatch_size"
    if config.records_per_unit > 1:
        # The rows that devices share are owners.
        size = max(1, size // config.records_per_unit)
        size_name += " / privacy.records_per_owner"
    mesh, notice = choose_mesh(config.compute.mesh, size, name="compute.mesh", size_name=size_name)
    notices = (notice,) if notice else ()
    if mesh is None:
        return None, notices
    if config.compute.scan_layers and mesh.shape["fsdp"] > 1:
        raise ValueError(
            "compute.scan_layers=True gathers the parameters of all layers at once, which fsdp in "
            f"compute.mesh={config.compute.mesh} is to avoid: give one of them"
        )
    return model_layout(mesh), notices


def model_layout(mesh: jax.sharding.Mesh) -> Layout:
    """Returns where the parameters of a model lie: tensor by its table, fsdp by their shapes."""
    sizes = dict(mesh.shape)

    def rule(path: str, shape: tuple[int, ...]) -> jax.sharding.PartitionSpec:
        split, stacked = tensor_axis(path), num_stacked_axes(path)
        return spread(shape, sizes, tensor_axis=split, first_axis=stacked)

    return Layout.make(mesh, rule)


def _load_model(plan: Plan, run_key: RunKey, layout: Layout | None) -> SplitModel:
    """Loads the checkpoint, adds adapters, and splits it by what is trained."""
    config = plan.config
    loading = config.compute.loading(None if layout is None else layout.sharding)
    model = plan.task.load(plan.checkpoint, config, run_key.model_key("head"), loading)
    if config.tuning == "lora":
        add_lora(model, config.lora, key=run_key.model_key("lora"))
    trainable = Trainable(config.tuning, num_layers=config.num_trained_layers)
    split = split_trainable(model, trainable)
    _check_finite(split.trainable, config.model)
    return split if layout is None else on_devices(split, layout)


def on_devices(split: SplitModel, layout: Layout) -> SplitModel:
    """Returns the model with every parameter where it belongs."""
    return split._replace(
        trainable=layout.place(split.trainable), frozen=layout.place(split.frozen)
    )


def _check_finite(trained: Any, model: str) -> None:
    """A step would be paid for before a run noticed what was in the checkpoint from the start."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained):
        if not bool(jnp.all(jnp.isfinite(leaf))):
            name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
            raise ValueError(
                f"{model}: the parameter {name} has infinite entries, or some that are not "
                "numbers, and tuning would train it; repair the checkpoint, or leave the parameter "
                "frozen (--tuning lora)"
            )
