"""The lock of a run directory: one process at a time writes there."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from dpjax.training.stopped import RunInUse


class DirectoryLock:
    """Holds a lock file, which is made if there is none, until `release`.

    The operating system frees it when the process ends, however that happens.

    Raises:
        RunInUse: another process has it, or had it and deletes the file.
        OSError: the folder does not exist or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        import fcntl

        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._close = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise RunInUse(_in_use(path)) from None
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(descriptor)):
            self.release()
            raise RunInUse(_in_use(path))

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Lets another process have it; does nothing the second time."""
        self._close()


def _in_use(path: Path) -> str:
    return (
        f"output_dir {path.parent.parent} is in use by another process, which holds {path}: wait "
        "until it ends, or name a new folder"
    )
