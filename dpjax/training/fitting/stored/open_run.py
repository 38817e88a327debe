"""What `fit` does with a folder before its run starts: nothing is written yet."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jax
from dpjax_accounting import DatasetIdentity, Mechanism

from dpjax.basics.typing import PyTree
from dpjax.privatize import RunKey
from dpjax.training.devices.lead import from_lead, is_lead
from dpjax.training.devices.lead_alone import in_lead
from dpjax.training.files.checkpoints import Checkpoints
from dpjax.training.files.run_ledger import RunLedger
from dpjax.training.fitting.checks import checked_run_key
from dpjax.training.fitting.no_privacy import NoPrivacy
from dpjax.training.fitting.records import Records, count_records
from dpjax.training.fitting.stored.directory import FitDirectory, FitState
from dpjax.training.fitting.stored.fingerprints import identify_records
from dpjax.training.fitting.stored.followed_run import FollowedRun
from dpjax.training.fitting.stored.identity import (
    check_same,
    describe,
    read,
    remark_on_mesh,
    with_meshes,
)
from dpjax.training.fitting.stored.shown import last_shown
from dpjax.training.fitting.stored.states import restore
from dpjax.training.fitting.stored.stepwise import StepwiseRun
from dpjax.training.fitting.stored.stored_run import StoredRun

if TYPE_CHECKING:
    import optax


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """The options of `fit` that are about its folder.

    Attributes:
        output_dir: the folder; None for none.
        resume: whether to go on with the run in it.
        overwrite: whether to delete an unfinished run in it.
        checkpoint_every_seconds: between states; None for no such rule.
        checkpoint_every_steps: likewise.
        keep_checkpoints: how many states are kept.
        ledger: the file of what was spent on the data set; None for none.
    """

    output_dir: str | Path | None
    resume: bool
    overwrite: bool
    checkpoint_every_seconds: float | None
    checkpoint_every_steps: int | None
    keep_checkpoints: int
    ledger: str | Path | None

    def check(self) -> None:
        """Checks what can be checked without looking at the folder.

        Raises:
            TypeError: an option is given that needs a folder.
            ValueError: options exclude each other, or a number is out of range.
        """
        if self.output_dir is None:
            names = ("resume", "overwrite", "checkpoint_every_steps", "ledger")
            given = [name for name in names if getattr(self, name)]
            if given:
                raise TypeError(f"{' and '.join(given)} needs output_dir: name a folder")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other: give one of them")
        for name in ("checkpoint_every_seconds", "checkpoint_every_steps", "keep_checkpoints"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")


class KeepsFiles(StepwiseRun, Protocol):
    """A run that may have a folder."""

    stored: StoredRun | FollowedRun | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedFolder:
    """A folder that a run may use.

    Attributes:
        directory: the folder.
        options: those about it.
        run_key: the secret of the run.
        run_id: names it.
        stored: what the run was started with, if it resumes.
    """

    directory: FitDirectory
    options: FolderOptions
    run_key: RunKey
    run_id: str
    stored: dict[str, Any] | None


def open_folder(options: FolderOptions, run_key: RunKey | None) -> OpenedFolder | None:
    """Finds what is in the folder, and the key of the run there; None without a folder.

    Raises:
        FileExistsError, FileNotFoundError: the folder holds something else than what is asked for.
        RunInUse: another process has it.
        ValueError: a file is damaged, or the run key is not that of the run.
    """
    options.check()
    if options.output_dir is None:
        return None
    directory = FitDirectory(options.output_dir)
    # Where several processes train, the lead looks into its folder for all.
    found = from_lead(lambda: _look_into(directory, options, run_key))
    stored = found["stored"]
    return OpenedFolder(
        directory=directory,
        options=options,
        run_key=RunKey.from_dict(found["run_key"]),
        run_id=found["new_id"] if stored is None else stored["run_id"],
        stored=stored,
    )


def _look_into(
    directory: FitDirectory, options: FolderOptions, run_key: RunKey | None
) -> dict[str, Any]:
    private = directory.private
    with private.lock() if private.path.is_dir() else contextlib.nullcontext():
        resumes = _find_state(options, directory) is FitState.UNFINISHED
        stored = read(private.identity) if resumes else None
        # Only the lead is here: a new key must not be exchanged with the others.
        new = RunKey.from_os_entropy() if run_key is None else checked_run_key(run_key)
        key = private.load_key() if resumes else new
    if run_key is not None and run_key != key:
        raise ValueError(
            "cannot resume: run_key is not that of the run. Leave it out: the folder has it"
        )
    return {
        "stored": stored,
        "run_key": key.to_dict(),
        "new_id": secrets.token_hex(16),
    }


def keep_files(
    run: KeepsFiles,
    opened: OpenedFolder,
    *,
    mechanism: Mechanism | NoPrivacy,
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    data: PyTree | Records,
    settings: Mapping[str, Any],
) -> None:
    """Gives a run its folder; one that resumes gets the state that was stored last.

    Nothing is written before its first step. What resumes keeps the folder locked from now on.
    Where several processes train, every one calls it, and the lead has the folder.

    Args:
        run: that has done no step yet.
        opened: the folder.
        mechanism: as `fit` takes it.
        loss: of one record, `(params, record, frozen) -> scalar`.
        optimizer: as `fit` takes it.
        data: likewise.
        settings: what else of `fit`'s arguments changes sums, draws or roundings, ready for JSON,
            with the mesh.

    Raises:
        ValueError: the run is not the one that it resumes; or the ledger was tampered with, is that
            of other data, or has a run with the same key.
        FileNotFoundError: the folder of the ledger does not exist, or a state is missing.
        TypeError: a ledger is given without privacy.
        RunInUse: another process has the folder.
    """
    if run.mechanism is None and opened.options.ledger is not None:
        raise TypeError("NoPrivacy has no guarantee: leave out ledger")
    unit = mechanism.unit if isinstance(mechanism, Mechanism) else "record"
    datasets: list[DatasetIdentity] = []

    def identify() -> str:
        dataset, records = identify_records(data, count_records(data), unit)
        datasets.append(dataset)
        return records

    # Where several processes train, the others may not have all records.
    records = from_lead(identify)
    described = describe(
        mechanism=mechanism,
        delta=run.delta,
        rule=run.rule,
        loss=loss,
        optimizer=optimizer,
        params=run.params,
        state=run.state,
        frozen=run.frozen,
        data=data,
        records=records,
        settings=settings,
    )
    made = in_lead(lambda: _make_stored(run, opened, described, datasets[0]))
    stored = made or FollowedRun()
    try:
        if opened.stored is not None:
            stored.floor = restore(run, _checkpoints(opened), opened.directory)
            stored.shown_until = from_lead(lambda: last_shown(opened.directory.shown))
            remark = remark_on_mesh(opened.stored, described)
            if remark is not None and is_lead():
                warnings.warn(remark, RuntimeWarning, stacklevel=3)
    except BaseException:
        if made is not None and made.lock is not None:
            made.lock.release()
        raise
    run.run_id, run.stored = opened.run_id, stored


def _make_stored(
    run: StepwiseRun, opened: OpenedFolder, described: dict[str, Any], dataset: DatasetIdentity
) -> StoredRun:
    """The files of the run; those of one that resumes are locked from now on."""
    resumes = opened.stored is not None
    if opened.stored is not None:
        check_same(opened.stored, described)
    options = opened.options
    return StoredRun(
        directory=opened.directory,
        identity={"run_id": opened.run_id, **with_meshes(described, opened.stored)},
        run_key=opened.run_key,
        ledger=_find_ledger(opened, run, dataset),
        resumes=resumes,
        overwrite=options.overwrite,
        checkpoint_every_seconds=options.checkpoint_every_seconds,
        checkpoint_every_steps=options.checkpoint_every_steps,
        checkpoints=_checkpoints(opened),
        lock=opened.directory.private.lock() if resumes else None,
    )


def _checkpoints(opened: OpenedFolder) -> Checkpoints:
    return Checkpoints(opened.directory.private.checkpoint, opened.options.keep_checkpoints)


def _find_ledger(
    opened: OpenedFolder, run: StepwiseRun, dataset: DatasetIdentity
) -> RunLedger | None:
    path = opened.options.ledger
    if path is None or run.mechanism is None:
        return None
    ledger = RunLedger(
        option="ledger",
        path=Path(path),
        dataset=dataset,
        run_id=opened.run_id,
        mechanism=run.mechanism,
        key=opened.run_key.fingerprint(),
        note=f"fit into {opened.directory.path}",
    )
    ledger.check()
    return ledger


def _find_state(options: FolderOptions, directory: FitDirectory) -> FitState:
    if options.overwrite:
        directory.check_replaceable()
        return FitState.NEW
    if not options.resume:
        directory.check_free()
        return FitState.NEW
    return directory.check_resumable()
