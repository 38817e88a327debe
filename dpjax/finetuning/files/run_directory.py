"""The folder of a run: what is in it, and what can be done with it."""

from __future__ import annotations

import enum
import json
from pathlib import Path

from dpjax.privatize import RunKey
from dpjax.training import PARTIAL, DirectoryLock, PrivateFolder, delete, partial_of

_PICTURES = ("training.png", "roc.png")


class RunState(enum.Enum):
    """What a folder holds.

    Example:
        >>> RunState.UNFINISHED.value
        'a run that was interrupted'
    """

    NEW = "nothing"
    NOT_STARTED = "what a run left that was stopped before it used its key"
    UNFINISHED = "a run that was interrupted"
    MEASURED = "a run that has written all its results"
    FINISHED = "a finished run"
    FAILED = "a run that failed before any of its state was saved"
    KEYLESS = "a run whose key is missing"
    OTHER = "no run"


class RunDirectory:
    """Paths and files of one run.

    config.json, privacy.json, privacy.html, metrics.jsonl, attack.json, report.md with pictures,
    model/, adapter/ of LoRA on the checkpoint as it is, manifest.json, audit.json and audit.html of
    a run with canaries, clients.json of a federated run; and while the run is unfinished private/
    (run key, checkpoint, coins and canaries, readable by the owner only).

    The key is the last file of private/ that is written before training, and the first that is
    deleted: a run that has used its key and is not finished has it.

    Example:
        >>> directory = RunDirectory("runs/first")
        >>> directory.state().name, directory.privacy.as_posix()
        ('NEW', 'runs/first/privacy.json')
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.privacy = self.path / "privacy.json"
        self.privacy_page = self.path / "privacy.html"
        self.metrics = self.path / "metrics.jsonl"
        self.attack = self.path / "attack.json"
        self.clients = self.path / "clients.json"
        self.manifest = self.path / "manifest.json"
        self.audit = self.path / "audit.json"
        self.audit_page = self.path / "audit.html"
        self.report = self.path / "report.md"
        self.training_picture, self.roc_picture = (self.path / name for name in _PICTURES)
        self.model = self.path / "model"
        self.adapter = self.path / "adapter"
        self._secrets = PrivateFolder(self.path / "private")
        self.private = self._secrets.path
        self.checkpoint = self._secrets.checkpoint
        self.identity = self._secrets.identity
        self.start_a = self.private / "start_a.npz"
        self.results = self.private / "results.json"
        self.run_key = self._secrets.run_key

    def state(self) -> RunState:
        """What the folder holds.

        Raises:
            FileExistsError: it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"output_dir {self.path} is a file; name a new folder")
        if not self.path.exists() or not any(self.path.iterdir()):
            return RunState.NEW
        if self.results.exists():
            return RunState.MEASURED
        if self.run_key.exists():
            return RunState.UNFINISHED
        names = {path.name.removesuffix(PARTIAL) for path in self.path.iterdir()}
        before_the_key = {self.private.name, self.config.name, self.manifest.name}
        if self.private.is_dir() and names <= before_the_key:
            return RunState.NOT_STARTED
        if not self.privacy.exists() and not self.model.exists():
            return RunState.OTHER
        if not self.private.exists():
            return RunState.FINISHED if self.model.exists() else RunState.FAILED
        return RunState.FINISHED if self._is_complete() else RunState.KEYLESS

    def check_free(self) -> None:
        """Raises FileExistsError if the folder holds anything already."""
        state = self.state()
        if state is RunState.NEW:
            return
        if state is RunState.OTHER:
            raise FileExistsError(
                f"output_dir {self.path} is not empty and holds no run; name a new folder"
            )
        resume = " (or --resume, to finish the run that was interrupted)"
        afresh = " (or --overwrite, to delete it and start afresh)"
        hint = {
            RunState.NOT_STARTED: " (or --resume, to start it: it had not used its key yet)",
            RunState.UNFINISHED: resume + afresh,
            RunState.MEASURED: resume,
            RunState.FAILED: afresh,
            RunState.KEYLESS: afresh,
        }.get(state, "")
        raise FileExistsError(f"output_dir {self.path} holds another run; name a new folder{hint}")

    def check_resumable(self) -> RunState:
        """Returns the state of a run that can go on, be started, or has results to return.

        Raises:
            FileNotFoundError: there is none; the message says what to do.
        """
        state = self.state()
        if state is RunState.FINISHED and self.private.exists():
            self.forget_secrets()
        if state in (RunState.FINISHED, RunState.OTHER):
            raise FileNotFoundError(f"nothing to resume: {self.path} holds {state.value}")
        afresh = "start it afresh with --overwrite or in a new folder"
        if state is RunState.FAILED:
            raise FileNotFoundError(f"nothing to resume: {self.path} holds {state.value}; {afresh}")
        if state is RunState.KEYLESS:
            raise FileNotFoundError(
                f"cannot resume: {self.run_key} is missing, and with it the noise of the steps "
                f"that are done; put a copy of it back, or {afresh}"
            )
        return state

    def check_replaceable(self) -> None:
        """Raises FileExistsError unless what the folder holds may be deleted for a new run."""
        state = self.state()
        if state is RunState.OTHER:
            raise FileExistsError(
                f"output_dir {self.path} holds files of no run, which --overwrite does not delete; "
                "name a new folder"
            )
        if state in (RunState.FINISHED, RunState.MEASURED) or self.model.exists():
            raise FileExistsError(
                f"output_dir {self.path} holds a tuned model, which --overwrite does not delete; "
                "name a new folder, or delete it yourself"
            )

    def lock(self) -> DirectoryLock:
        """Makes the folder and private/, and keeps other processes out.

        Raises:
            RunInUse: another process is there.
        """
        return self._secrets.lock()

    def remarks_on_clearing(self) -> tuple[str, ...]:
        """What to say about a run that is about to be deleted: what it spent stays spent."""
        try:
            spent = json.loads(self.privacy.read_bytes())
            epsilon, steps = spent["guarantee"]["epsilon"], spent["steps_completed"]
        except (OSError, ValueError, KeyError, TypeError):
            return ()
        return (
            f"the run that is deleted in {self.path} had spent ε = {epsilon:.4g} in {steps} steps "
            "on its records, which stays spent",
        )

    def remarks_on_resuming(self) -> tuple[str, ...]:
        """What to say about files that are not needed to go on, and missing or damaged."""
        remarks = []
        if not self.has_config():
            remarks.append(f"{self.config} was missing or damaged: written anew")
        if not self.checkpoint.exists():
            remarks.append(
                f"{self.checkpoint} is missing: the run starts again from its first step, with the "
                "draws and the noise that it had"
            )
        return tuple(remarks)

    def has_config(self) -> bool:
        """Whether config.json is there and whole."""
        try:
            json.loads(self.config.read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        return True

    def clear_for_new_run(self, *, overwrite: bool) -> None:
        """Deletes what a run left, all but the lock, which the caller holds; the key first.

        Raises:
            FileExistsError: meanwhile there is something in the folder that may not be deleted.
        """
        state = self.state()
        if state is RunState.FINISHED:
            # Only the lock of the caller is there, which made the folder for it.
            self.forget_secrets()
        if state is not RunState.NOT_STARTED:
            if overwrite:
                self.check_replaceable()
            else:
                self.check_free()
        self._secrets.empty()
        files = (
            self.config,
            self.privacy,
            self.privacy_page,
            self.metrics,
            self.attack,
            self.clients,
            self.manifest,
            self.audit,
            self.audit_page,
            self.report,
        )
        pictures = (self.training_picture, self.roc_picture)
        for path in (*files, *pictures, self.model, self.adapter):
            delete(path)
            delete(partial_of(path))

    def store_key(self, run_key: RunKey) -> None:
        """Stores the run's secret in private/, beside a note that says what it is."""
        self._secrets.store_key(run_key)

    def load_key(self) -> RunKey:
        """The secret of the interrupted run.

        Raises:
            ValueError: the file is damaged.
        """
        return self._secrets.load_key()

    def forget_secrets(self, lock: DirectoryLock | None = None) -> None:
        """Deletes the run key and the checkpoint: nothing can recompute the noise any more.

        Then the lock is released, which ends what the folder of it was for.
        """
        self._secrets.empty(keep=(self.results,))
        self.results.unlink(missing_ok=True)
        self._secrets.remove(lock)

    def _is_complete(self) -> bool:
        """Whether the model is there, and privacy.json says that all steps are done."""
        try:
            privacy = json.loads(self.privacy.read_bytes())
        except ValueError:
            return False
        is_complete = isinstance(privacy, dict) and privacy.get("status") == "complete"
        return is_complete and self.model.exists()
