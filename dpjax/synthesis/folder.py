"""The folder of synthetic records: what is in it."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

from dpjax.training import DirectoryLock, delete, write_json

_OWNER_ONLY = 0o600
_IDENTITY = ("run_id", "options", "prompts_sha256", "versions")


class FolderState(enum.Enum):
    """What a folder holds."""

    NEW = "nothing"
    UNFINISHED = "synthetic records that were interrupted"
    FINISHED = "synthetic records"
    OTHER = "other files"


class SynthesisFolder:
    """Paths and files of one synthesis.

    records.jsonl or records.csv, synthesis.json, report.md; with a comparison
    private_comparison.json and .md; and unfinished/ while it goes on, with the lock, what must be
    the same on resumption, and the draws, one a line.

    Of a run without privacy the records have another name, and are readable by their owner alone.

    Args:
        path: of the folder.
        is_private: whether the run has a guarantee.
        file_format: of the records.
    """

    def __init__(self, path: str | Path, *, is_private: bool, file_format: str) -> None:
        self.path = Path(path)
        name = "records" if is_private else "records_WITHOUT_PRIVACY"
        self.records = self.path / f"{name}.{file_format}"
        self.records_mode = 0o644 if is_private else _OWNER_ONLY
        self.summary = self.path / "synthesis.json"
        self.report = self.path / "report.md"
        self.comparison = self.path / "private_comparison.json"
        self.comparison_page = self.path / "private_comparison.md"
        self.work = self.path / "unfinished"
        self.identity = self.work / "identity.json"
        self.draws = self.work / "draws.jsonl"

    def state(self) -> FolderState:
        """Returns what the folder holds.

        Raises:
            FileExistsError: it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"output_dir {self.path} is a file; name a new folder")
        names = {path.name for path in self.path.iterdir()} if self.path.exists() else set()
        if self.summary.exists():
            return FolderState.FINISHED
        if self.identity.exists():
            return FolderState.UNFINISHED
        # A lock alone: nothing was drawn.
        return FolderState.NEW if names <= {self.work.name} else FolderState.OTHER

    def check_free(self) -> None:
        """Raises FileExistsError if the folder holds anything already."""
        state = self.state()
        if state is not FolderState.NEW:
            hint = " (or --resume, to go on)" if state is not FolderState.OTHER else ""
            raise FileExistsError(
                f"output_dir {self.path} is there and holds {state.value}; name a new folder{hint}"
            )

    def start(self, identity: dict[str, Any]) -> None:
        """Notes what must be the same on resumption."""
        write_json(self.identity, identity, mode=_OWNER_ONLY)

    def stored_identity(self) -> dict[str, Any]:
        """Returns what was noted when it was started.

        Raises:
            FileNotFoundError, ValueError: the file is missing or damaged.
        """
        path = self.summary if self.summary.exists() else self.identity
        try:
            stored = json.loads(path.read_bytes())
            return {name: stored[name] for name in _IDENTITY}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"cannot resume: {path} is damaged ({error}); put a copy of it back, or name a new "
                "folder"
            ) from error

    def lock(self) -> DirectoryLock:
        """Makes the folder, and keeps other processes out.

        Raises:
            RunInUse: another process is there.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        self.work.chmod(0o700)
        return DirectoryLock(self.work / "lock")

    def finish(self) -> None:
        """Deletes what only an unfinished synthesis needs."""
        delete(self.work)
