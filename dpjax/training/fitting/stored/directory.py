"""The folder of a run of `fit`: what is in it, and what can be done with it."""

from __future__ import annotations

import enum
from pathlib import Path

from dpjax.training.files.atomic import PARTIAL, delete, partial_of
from dpjax.training.files.private_folder import PrivateFolder


class FitState(enum.Enum):
    """What a folder holds."""

    NEW = "nothing"
    NOT_STARTED = "what a run left that was stopped before it used its key"
    UNFINISHED = "a run that was interrupted"
    FINISHED = "a finished run"
    KEYLESS = "a run whose key is missing"
    OTHER = "no run of fit"


class FitDirectory:
    """Paths of one run: privacy.json, privacy.html, metrics.jsonl and params.safetensors.

    An audit has manifest.json, audit.json and audit.html beside them.
    While the run is unfinished, private/ has its key and its states, for the owner only.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.privacy = self.path / "privacy.json"
        self.privacy_page = self.path / "privacy.html"
        self.metrics = self.path / "metrics.jsonl"
        self.params = self.path / "params.safetensors"
        self.manifest = self.path / "manifest.json"
        self.audit = self.path / "audit.json"
        self.audit_page = self.path / "audit.html"
        self.private = PrivateFolder(self.path / "private", "overwrite=True")
        self.shown = self.private.path / "shown.jsonl"

    def state(self) -> FitState:
        """Returns what the folder holds.

        Raises:
            FileExistsError: it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"output_dir {self.path} is a file; name a new folder")
        if not self.path.exists() or not any(self.path.iterdir()):
            return FitState.NEW
        if self.private.run_key.exists():
            return FitState.UNFINISHED
        if self.params.exists() and self.privacy.exists():
            return FitState.FINISHED
        names = {path.name.removesuffix(PARTIAL) for path in self.path.iterdir()}
        if self.private.path.is_dir() and names <= {self.private.path.name, self.manifest.name}:
            return FitState.NOT_STARTED
        return FitState.KEYLESS if self.privacy.exists() else FitState.OTHER

    def check_free(self) -> None:
        """Raises FileExistsError if the folder holds anything already."""
        state = self.state()
        if state is FitState.NEW:
            return
        if state is FitState.OTHER:
            raise FileExistsError(
                f"output_dir {self.path} is not empty and holds no run of fit; name a new folder"
            )
        hint = {
            FitState.NOT_STARTED: " (or resume=True, to start it: it had not used its key yet)",
            FitState.UNFINISHED: " (or resume=True, to finish the run that was interrupted; or "
            "overwrite=True, to delete it and start afresh)",
            FitState.KEYLESS: " (or overwrite=True, to delete it and start afresh)",
        }.get(state, "")
        raise FileExistsError(f"output_dir {self.path} holds another run; name a new folder{hint}")

    def check_resumable(self) -> FitState:
        """Returns the state of a run that can go on or be started.

        Raises:
            FileNotFoundError: there is none; the message says what to do.
        """
        state = self.state()
        if state is FitState.FINISHED:
            if self.private.path.exists():
                self.private.empty()
                self.private.remove()
            raise FileNotFoundError(
                f"nothing to resume: {self.path} holds a finished run, whose parameters are in "
                f"{self.params.name}"
            )
        if state is FitState.OTHER:
            raise FileNotFoundError(f"nothing to resume: {self.path} holds {state.value}")
        if state is FitState.KEYLESS:
            raise FileNotFoundError(
                f"cannot resume: {self.private.run_key} is missing, and with it the noise of the "
                "steps that are done; put a copy of it back, or start afresh with overwrite=True "
                "or in a new folder"
            )
        return state

    def check_replaceable(self) -> None:
        """Raises FileExistsError unless what the folder holds may be deleted for a new run."""
        state = self.state()
        if state is FitState.OTHER:
            raise FileExistsError(
                f"output_dir {self.path} holds files of no run of fit, which overwrite=True does "
                "not delete; name a new folder"
            )
        if state is FitState.FINISHED or self.params.exists():
            raise FileExistsError(
                f"output_dir {self.path} holds trained parameters, which overwrite=True does not "
                "delete; name a new folder, or delete it yourself"
            )

    def clear_for_new_run(self, *, overwrite: bool) -> None:
        """Deletes what a run left, all but the lock, which the caller holds; the key first.

        Raises:
            FileExistsError: meanwhile there is something in the folder that may not be deleted.
        """
        if self.state() is not FitState.NOT_STARTED:
            if overwrite:
                self.check_replaceable()
            else:
                self.check_free()
        self.private.empty()
        reports = (self.privacy, self.privacy_page, self.manifest, self.audit, self.audit_page)
        for path in (*reports, self.metrics, self.params):
            delete(path)
            delete(partial_of(path))
