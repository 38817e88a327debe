"""Files that a crash cannot leave half written, and a lock that two processes cannot share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replaces the file atomically: it is the old one or the whole new one, also after a crash.

    The text is on the disk when the function returns.

    Raises:
        OSError: if the folder does not exist or cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        finish_file(partial, path)
    except OSError:
        # Half a file on a full disk would keep the space that the next attempt needs.
        partial.unlink(missing_ok=True)
        raise


def finish_file(partial: Path, path: Path) -> None:
    """Puts a whole file on the disk and gives it its name, in place of the file that had it.

    Raises:
        OSError: if the disk is full, or the file cannot be renamed.
    """
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def finish_folder(partial: Path, path: Path) -> None:
    """Puts all files of a folder on the disk and gives it its name, which no other folder has.

    Raises:
        OSError: if the disk is full, or the folder cannot be renamed.
    """
    for entry in (*partial.rglob("*"), partial):
        _sync(entry)
    partial.rename(path)
    _sync(path.parent)


def append_bytes(path: Path, data: bytes, keep: int) -> None:
    """Cuts the file after `keep` bytes and appends `data`, on the disk when the function returns.

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
    """Holds the lock file `path`, waiting while another process or thread does (POSIX).

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


def _sync(path: Path) -> None:
    """Puts what a file holds on the disk, or the names that a folder holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
