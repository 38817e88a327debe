"""The folder of an unlearning: what is in it, and how far it has come."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

from dpjax.privatize import RunKey
from dpjax.training import Checkpoints, DirectoryLock, PrivateFolder, write_json

OWNER_ONLY = 0o600
_WHAT_TO_DO = "put a copy of it back, or start in a new folder"


class FolderState(enum.Enum):
    """What a folder holds."""

    NEW = "nothing"
    UNFINISHED = "an unlearning that was interrupted"
    FINISHED = "a finished unlearning"
    OTHER = "other files"


class UnlearningFolder:
    """Paths and files of one unlearning.

    adapter/, unlearning.json, report.md, privacy.json and retrained/; and private/ while it goes
    on: lock, key of the noise, states of steps, losses, measures, and what must be the same on
    resumption. Of these the key is written first and deleted first.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.adapter = self.path / "adapter"
        self.privacy = self.path / "privacy.json"
        self.page = self.path / "report.md"
        self.report = self.path / "unlearning.json"
        self.retrained = self.path / "retrained"
        self._secrets = PrivateFolder(self.path / "private", "another --output-dir")
        self.losses = self._secrets.path / "losses.json"

    def state(self) -> FolderState:
        """Returns what the folder holds.

        Raises:
            FileExistsError: it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"output_dir {self.path} is a file; name a new folder")
        if self.report.exists():
            return FolderState.FINISHED
        if self._secrets.identity.exists():
            return FolderState.UNFINISHED
        names = {path.name for path in self.path.iterdir()} if self.path.exists() else set()
        # Without an identity nothing was computed, and no key was used.
        return FolderState.NEW if names <= {self._secrets.path.name} else FolderState.OTHER

    def check_free(self) -> None:
        """Raises FileExistsError if the folder holds anything already."""
        state = self.state()
        if state is not FolderState.NEW:
            hint = " (or --resume, to go on)" if state is FolderState.UNFINISHED else ""
            raise FileExistsError(
                f"output_dir {self.path} is there already and holds {state.value}; name a new "
                f"folder{hint}"
            )

    def check_resumable(self) -> None:
        """Raises FileNotFoundError unless there is something to go on with, or to start."""
        state = self.state()
        if state is FolderState.FINISHED and self._secrets.path.exists():
            # All that was left is to delete it.
            self.finish()
        if state in (FolderState.FINISHED, FolderState.OTHER):
            raise FileNotFoundError(f"nothing to resume: {self.path} holds {state.value}")

    def lock(self) -> DirectoryLock:
        """Makes the folder, for its owner only, and keeps other processes out.

        Raises:
            RunInUse: another process is there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        return self._secrets.lock()

    def begin(self, identity: dict[str, Any], run_key: RunKey | None) -> None:
        """Notes what a resumption needs: the key, if there is one, before all others."""
        self._secrets.empty()
        if run_key is not None:
            self._secrets.store_key(run_key)
        write_json(self._secrets.identity, identity, mode=OWNER_ONLY)

    def identity(self) -> dict[str, Any]:
        """Returns what was noted when it was started.

        Raises:
            ValueError: the file is damaged.
        """
        noted: dict[str, Any] = _read(self._secrets.identity)
        return noted

    def load_key(self) -> RunKey:
        """Returns the secret of the noise.

        Raises:
            FileNotFoundError, ValueError: the file is missing or damaged. No other key may take its
                place: a state that was drawn with the old one may be stored.
        """
        path = self._secrets.run_key
        if not path.exists():
            raise FileNotFoundError(
                f"cannot resume: {path} is missing, and with it the noise of the steps that are "
                f"done; {_WHAT_TO_DO}"
            )
        return self._secrets.load_key()

    def checkpoints(self) -> Checkpoints:
        """Returns the states of the steps."""
        states = Checkpoints(self._secrets.checkpoint)
        if not self._secrets.checkpoint.exists():
            states.start()
        return states

    def read_measured(self, model: str) -> dict[str, Any] | None:
        """Returns what was measured of a model before an interruption; None if it was not."""
        path = self._measured(model)
        return _read(path) if path.exists() else None

    def write_measured(self, model: str, measured: dict[str, Any]) -> None:
        """Keeps what was measured of a model until all is done."""
        write_json(self._measured(model), measured, mode=OWNER_ONLY)

    def read_losses(self) -> list[float]:
        """Returns the losses of the steps that have led to the adapter.

        Raises:
            FileNotFoundError, ValueError: the file is missing or damaged.
        """
        losses: list[float] = _read(self.losses)
        return losses

    def write_losses(self, losses: list[float]) -> None:
        """Keeps the losses of the steps until all is done."""
        write_json(self.losses, losses, mode=OWNER_ONLY)

    def finish(self, lock: DirectoryLock | None = None) -> None:
        """Deletes what only an unfinished unlearning needs: nothing can recompute the noise."""
        self._secrets.empty()
        self._secrets.remove(lock)

    def _measured(self, model: str) -> Path:
        return self._secrets.path / f"measured_{model}.json"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"cannot resume: {path} is missing; {_WHAT_TO_DO}") from None
    except ValueError as error:
        raise ValueError(f"cannot resume: {path} is damaged ({error}); {_WHAT_TO_DO}") from error
