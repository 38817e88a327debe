"""private/: the secrets of an unfinished run, for its owner only, and its lock."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from dpjax.privatize import RunKey
from dpjax.training.files.atomic import delete, write_json
from dpjax.training.files.directory_lock import DirectoryLock

_NOTE = """\
This folder holds the secret of an unfinished run: its key and its state, from which noise can be
recomputed. Never publish or copy it. It is deleted when the run ends.
"""


class PrivateFolder:
    """The key of an unfinished run, its checkpoints, and what must be the same on resumption.

    The key is the last file that is written before training, and the first that is deleted: a run
    that has used its key and is not finished has it.

    Args:
        path: of the folder.
        overwrite: the option with which a run starts afresh.

    Attributes:
        path: of the folder.
        run_key: the file of the run's secret.
        identity: the file that says what must be the same on resumption.
        checkpoint: the folder of the states.

    Example:
        >>> folder = PrivateFolder(Path("run/private"))
        >>> with folder.lock():
        ...     folder.store_key(RunKey.from_seed(7))
        ...     folder.load_key() == RunKey.from_seed(7)
        True
    """

    def __init__(self, path: Path, overwrite: str = "--overwrite") -> None:
        self.path = path
        self._overwrite = overwrite
        self.run_key = path / "run_key.json"
        self.identity = path / "identity.json"
        self.checkpoint = path / "checkpoint"
        self._lock = path / "lock"

    def lock(self) -> DirectoryLock:
        """Makes the folder, and keeps other processes out.

        Raises:
            RunInUse: another process is there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        return DirectoryLock(self._lock)

    def store_key(self, run_key: RunKey) -> None:
        """Stores the run's secret, beside a note that says what it is."""
        (self.path / "README").write_text(_NOTE)
        write_json(self.run_key, run_key.to_dict(), mode=0o600)

    def load_key(self) -> RunKey:
        """Returns the secret of the interrupted run.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            return RunKey.from_dict(json.loads(self.run_key.read_bytes()))
        except (ValueError, KeyError, TypeError):
            # The error would quote the secret.
            raise ValueError(
                f"cannot resume: {self.run_key} is damaged, and with it the noise of the steps "
                "that are done is lost; put a copy of it back, or start afresh with "
                f"{self._overwrite} or in a new folder"
            ) from None

    def empty(self, keep: tuple[Path, ...] = ()) -> None:
        """Deletes what is in the folder, the key first; the lock and `keep` stay."""
        self.run_key.unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path not in (*keep, self._lock):
                delete(path)

    def remove(self, lock: DirectoryLock | None = None) -> None:
        """Releases the lock of an emptied folder, which ends what the folder was for."""
        if lock is not None:
            lock.release()
        # No secret is left; another process may be deleting the rest.
        shutil.rmtree(self.path, ignore_errors=True)
