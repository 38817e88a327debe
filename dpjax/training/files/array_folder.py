"""A folder of arrays that orbax writes: complete or absent, its owner's alone, and hashed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from dpjax_accounting import finish_folder

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

_PARTIAL = ".partial"
_NOT_FOUND = "NOT_FOUND: "
_ERROR_CODE = re.compile(r"os_error_code='(\d+)'")


def write_arrays(folder: Path, arrays: Mapping[str, Any], *, secret: bool) -> str:
    """Writes arrays into a folder that does not exist, and returns the hash of its files.

    The folder has its name only once all of it is on the disk.

    Args:
        folder: to write; its parent exists.
        arrays: NumPy or JAX arrays by name, or a pytree of them.
        secret: whether only the owner may read the files.

    Raises:
        OSError: for instance because the disk is full; nothing is left of the folder.
    """
    partial = folder.with_name(folder.name + _PARTIAL)
    _delete_partial(partial)
    try:
        with _staying(folder.parent), _checkpointer() as checkpointer, _raising_os_errors(folder):
            checkpointer.save(partial.absolute(), args=_orbax().args.StandardSave(arrays))
        if secret:
            _keep_from_others(partial)
        digest = hash_of_folder(partial)
        finish_folder(partial, folder)
    except BaseException:
        # Half a folder on a full disk would keep the space that the next attempt needs.
        _delete_partial(partial)
        raise
    return digest


def read_arrays(folder: Path, targets: Any) -> Any:
    """Returns the arrays of a folder, each with dtype and sharding of its target.

    Args:
        folder: that `write_arrays` wrote.
        targets: `jax.ShapeDtypeStruct` with sharding by name, or a pytree of them.
    """
    with _checkpointer() as checkpointer:
        return checkpointer.restore(folder.absolute(), args=_orbax().args.StandardRestore(targets))


def hash_of_folder(folder: Path) -> str:
    """Returns the SHA-256 of the names and the contents of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            contents = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{contents}\n".encode())
    return digest.hexdigest()


def has_no_entries(leaf: Any) -> bool:
    """Whether an array has length 0 along an axis: orbax does not store it."""
    return bool(np.size(leaf) == 0)


def _orbax() -> Any:
    # It takes most of a second, which an import of dpjax must not.
    import orbax.checkpoint

    return orbax.checkpoint


def _checkpointer() -> ocp.Checkpointer:
    orbax = _orbax()
    # Where several processes train, this one alone reads and writes: orbax waits for no other.
    alone = {jax.process_index()} if jax.process_count() > 1 else None
    options = orbax.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes=alone
    )
    handler = orbax.StandardCheckpointHandler(multiprocessing_options=options)
    return orbax.Checkpointer(handler, multiprocessing_options=options)


@contextlib.contextmanager
def _staying(folder: Path) -> Iterator[None]:
    """Raises `FileNotFoundError` if a folder is moved or deleted meanwhile.

    Orbax makes parents that are missing, and of files that go while it writes it says many things.
    """
    # While it is open, no other folder gets its number.
    opened = os.open(folder, os.O_RDONLY)
    failure: Exception | None = None
    try:
        try:
            yield
        except Exception as error:
            failure = error
        if not (folder.exists() and os.path.samestat(os.fstat(opened), folder.stat())):
            raise FileNotFoundError(
                errno.ENOENT, os.strerror(errno.ENOENT), str(folder)
            ) from failure
        if failure is not None:
            raise failure
    finally:
        os.close(opened)


@contextlib.contextmanager
def _raising_os_errors(folder: Path) -> Iterator[None]:
    """Turns what orbax makes of an error of the operating system into that error."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        found = _ERROR_CODE.search(str(error))
        if found is not None:
            code = int(found.group(1))
        elif _NOT_FOUND in str(error):
            code = errno.ENOENT
        else:
            raise
        raise OSError(code, os.strerror(code), str(folder)) from error


def _keep_from_others(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)


def _delete_partial(partial: Path) -> None:
    # Orbax writes beside the name that it is given, and renames.
    for path in partial.parent.glob(partial.name + "*"):
        shutil.rmtree(path, ignore_errors=True)
