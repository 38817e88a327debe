"""Files that a crash cannot leave half written, and a lock that two processes cannot share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace the file atomically: it is the old one or the whole new one, also after a crash.

    The text is on the disk when the function returns.

    Raises:
        OSError: if the folder does not exist or cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def append_bytes(path: Path, data: bytes, keep: int) -> None:
    """Cut the file after `keep` bytes and append `data`, on the disk when the function returns.

    Raises:
        OSError: if the file does not exist or cannot be written.
    """
    with path.open("r+b") as file:
        file.truncate(keep)
        file.seek(keep)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting while another process or thread does (POSIX).

    The operating system frees it when its holder ends, however that happens.

    Raises:
        OSError: if the folder does not exist or cannot be written.
    """
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Put renamed files of `folder` on the disk under their new names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
