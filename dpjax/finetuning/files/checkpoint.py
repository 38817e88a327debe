"""The state from which an interrupted run goes on: one file of arrays, replaced as a whole."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from dpjax_accounting import finish_file, write_text

from dpjax.typing import PyTree

_LATEST = "latest.json"


def start(folder: Path) -> None:
    """Makes the folder of a run that has done no step yet."""
    folder.mkdir(exist_ok=True)
    _write_latest(folder, 0, None)


def completed_steps(folder: Path) -> int:
    """How many steps the stored state has behind it, once it is known to be whole.

    Without a folder the run starts again from its first step, with the draws and the noise that it
    had.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged; the message says which, and
            what to do.
    """
    if not folder.exists():
        return 0
    step, sha256 = _read_latest(folder)
    if step == 0:
        return 0
    path = _path(folder, step)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; {_what_to_do(folder)}")
    if _sha256(path) != sha256:
        raise ValueError(f"{path} is damaged; {_what_to_do(folder)}")
    return step


def save(folder: Path, step: int, leaves: list[np.ndarray]) -> None:
    """Stores the state after `step` steps; the one before is deleted once this one is on the disk.

    Raises:
        OSError: for instance because the disk is full; the state before stays.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    path = _path(folder, step)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file({f"{index:06}": leaf for index, leaf in enumerate(leaves)}, partial)
        sha256 = _sha256(partial)
        finish_file(partial, path)
        _write_latest(folder, step, sha256)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    for other in folder.glob("step_*"):
        if other != path:
            other.unlink()


def restore(folder: Path, trainable: PyTree, optimizer_state: Any) -> tuple[int, PyTree, Any]:
    """The stored `(step, trainable, optimizer_state)`, or step 0 and what was given if none is.

    Raises:
        FileNotFoundError, ValueError: as for `completed_steps`.
    """
    from safetensors.numpy import load_file

    step = completed_steps(folder)
    if step == 0:
        return 0, trainable, optimizer_state
    leaves, structure = jax.tree.flatten((trainable, optimizer_state))
    arrays = load_file(_path(folder, step))
    stored = [
        jax.device_put(arrays[f"{index:06}"], leaf.sharding) for index, leaf in enumerate(leaves)
    ]
    return step, *jax.tree.unflatten(structure, stored)


class CheckpointWriter:
    """Stores the state now and then in a thread of its own, while training goes on.

    Args:
        folder: of the checkpoints.
        seconds: between the start of one and that of the next, unless writing takes longer.
        note_progress: puts the steps that were done on record; called before their state is stored.
    """

    def __init__(self, folder: Path, seconds: float, note_progress: Callable[[int], None]) -> None:
        self._folder = folder
        self._seconds = seconds
        self._note_progress = note_progress
        self._started = time.monotonic()
        self._pending: Future[None] | None = None
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def is_due(self) -> bool:
        """Whether it is time to store the state, and the one before is stored.

        Raises:
            Exception: what storing the one before raised.
        """
        if self._pending is not None and self._pending.done():
            self.wait()
        return self._pending is None and time.monotonic() - self._started >= self._seconds

    def store(self, step: int, trainable: PyTree, optimizer_state: Any) -> None:
        """Copies the state after `step` steps to the host, and has it stored."""
        self.wait()
        self._started = time.monotonic()
        # A copy: the buffers are donated to the next step.
        leaves = [np.array(leaf) for leaf in jax.tree.leaves((trainable, optimizer_state))]
        self._pending = self._pool.submit(self._write, step, leaves)

    def wait(self) -> None:
        """Returns once what was to be stored is stored; raises what that raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, step: int, leaves: list[np.ndarray]) -> None:
        self._note_progress(step)
        save(self._folder, step, leaves)

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()


def _path(folder: Path, step: int) -> Path:
    return folder / f"step_{step}.safetensors"


def _write_latest(folder: Path, step: int, sha256: str | None) -> None:
    write_text(folder / _LATEST, json.dumps({"step": step, "sha256": sha256}) + "\n", mode=0o600)


def _read_latest(folder: Path) -> tuple[int, str | None]:
    path = folder / _LATEST
    try:
        latest = json.loads(path.read_bytes())
        step, sha256 = latest["step"], latest["sha256"]
        if not isinstance(step, int) or step < 0:
            raise ValueError(f"step is {step!r}")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; {_what_to_do(folder)}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); {_what_to_do(folder)}") from error
    return step, sha256


def _what_to_do(folder: Path) -> str:
    return (
        f"put a copy of it back, or delete the folder {folder}: then --resume runs the steps again "
        "from the first, with the draws and the noise that they had"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
