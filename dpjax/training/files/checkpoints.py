"""The states from which an interrupted run goes on: the last few, each a folder of arrays."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dpjax_accounting import write_text

from dpjax.basics.typing import PyTree
from dpjax.training.devices.lead import copy_whole, from_lead, placed_from_lead
from dpjax.training.devices.lead_alone import in_lead
from dpjax.training.files.array_folder import (
    has_no_entries,
    hash_of_folder,
    read_arrays,
    write_arrays,
)

_LATEST = "latest.json"
_STEP = "step"


@dataclasses.dataclass(frozen=True)
class FoundState:
    """The newest state that is whole.

    Attributes:
        step: how many steps it has behind it; 0 if none is stored.
        remarks: what to say about newer ones that are damaged.
    """

    step: int
    remarks: tuple[str, ...] = ()


class Checkpoints:
    """A folder with the last few states of a run, secret like its key.

    Each is written as a whole by orbax, with a SHA-256 over its files in latest.json. Arrays come
    back with the sharding of those that they take the place of.

    Args:
        folder: of the states.
        keep: how many to keep, at least 1.

    Example:
        >>> states = Checkpoints(Path("checkpoint"), keep=2)
        >>> states.start()
        >>> for step in (10, 20, 30):
        ...     states.save(step, {"w": jnp.full(2, step)})
        >>> states.steps(), states.restore({"w": jnp.zeros(2, int)})[1]["w"].tolist()
        ((20, 30), [30, 30])
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self._keep = keep

    def start(self) -> None:
        """Makes the folder of a run that has done no step yet."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._write_latest([])

    def steps(self) -> tuple[int, ...]:
        """Returns after how many steps each state was stored, the newest last."""
        return tuple(step for step, _ in self._read_latest()) if self.folder.exists() else ()

    def newest(self) -> int:
        """Returns after how many steps the newest state was stored; 0 if none is."""
        return max(self.steps(), default=0)

    def forget_after(self, step: int) -> None:
        """Deletes the states after more than `step` steps: the run goes on from before them."""
        if self.newest() > step:
            self._write_latest([(s, h) for s, h in self._stored() if s <= step])
            self._delete_others()

    def find(self) -> FoundState:
        """Finds the newest state that is whole; step 0 without a folder, or if none is stored.

        From an older state, or the first step, the run repeats steps with the draws and the noise
        that they had: the result is the same, and nothing more is released.

        Raises:
            FileNotFoundError, ValueError: a file is missing or damaged, and no older state is left;
                the message says which, and what to do.
        """
        if not self.folder.exists():
            return FoundState(0)
        stored = self._read_latest()
        problems: list[OSError | ValueError] = []
        for step, sha256 in reversed(stored):
            problem = self._problem(step, sha256)
            if problem is None:
                remarks = (
                    f"{error}: the run goes on from the state before it, after {step} steps; steps "
                    "that it repeats have the draws and the noise that they had"
                    for error in problems
                )
                return FoundState(step, tuple(remarks))
            problems.append(problem)
        if problems:
            first = problems[0]
            raise type(first)(f"{first}; {self._what_to_do()}")
        return FoundState(0)

    def save(self, step: int, state: PyTree) -> None:
        """Stores the state after `step` steps; older ones go once this one is on the disk.

        Raises:
            OSError: for instance because the disk is full; the states before stay.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        before = [(s, h) for s, h in self._stored() if s < step]
        folder = self._path(step)
        if folder.exists():
            # A run that goes on from an older state stores this one again.
            self._write_latest(before)
            shutil.rmtree(folder)
        leaves = map(copy_whole, jax.tree.leaves(state))
        arrays = {_name(i): leaf for i, leaf in enumerate(leaves) if not has_no_entries(leaf)}
        sha256 = write_arrays(folder, {_STEP: np.int64(step)} | arrays, secret=True)
        kept = [*before, (step, sha256)][-self._keep :]
        self._write_latest(kept)
        self._delete_others()

    def restore(self, state: PyTree) -> tuple[int, PyTree]:
        """Returns the newest whole state and its step; step 0 and what is given if none is stored.

        Args:
            state: of the run's start: arrays of the same structure, shapes and dtypes.

        Raises:
            FileNotFoundError, ValueError: as for `find`.
        """
        step = self.find().step
        if step == 0:
            return 0, state
        leaves, structure = jax.tree.flatten(state)
        plain = list(map(_plain_array, leaves))
        stored = self._read(step, plain, [leaf.sharding for leaf in plain])
        restored = [
            leaf if found is None else _like(leaf, found)
            for leaf, found in zip(leaves, stored, strict=True)
        ]
        return step, jax.tree.unflatten(structure, restored)

    def restore_in_all(self, state: PyTree) -> tuple[int, PyTree]:
        """Returns what `restore` does, read by the lead, in every process; all must call it.

        Args:
            state: as for `restore`, the same in all processes, perhaps spread over them.

        Raises:
            FileNotFoundError, ValueError: as for `find`.
        """
        if jax.process_count() == 1:
            return self.restore(state)
        step = from_lead(lambda: self.find().step)
        if step == 0:
            return 0, state
        stored = in_lead(lambda: self._read_whole(step, state), takes_long=True)
        return step, placed_from_lead(stored, state)

    def _read_whole(self, step: int, state: PyTree) -> PyTree:
        """A state as arrays on the host; of keys their numbers."""
        leaves, structure = jax.tree.flatten(state)
        plain = list(map(_plain_array, leaves))
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        stored = self._read(step, plain, [here] * len(plain))
        whole = [
            np.zeros(leaf.shape, leaf.dtype) if found is None else np.asarray(found)
            for leaf, found in zip(plain, stored, strict=True)
        ]
        return jax.tree.unflatten(structure, whole)

    def _read(
        self, step: int, like: Sequence[jax.Array], shardings: Sequence[jax.sharding.Sharding]
    ) -> list[jax.Array | None]:
        """The arrays of a state; None for those without entries, which are not stored."""
        targets = {
            _name(i): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            for i, (leaf, sharding) in enumerate(zip(like, shardings, strict=True))
            if not has_no_entries(leaf)
        }
        stored = read_arrays(self._path(step), {_STEP: jax.ShapeDtypeStruct((), int)} | targets)
        return [stored.get(_name(i)) for i in range(len(like))]

    def _problem(self, step: int, sha256: str) -> OSError | ValueError | None:
        path = self._path(step)
        if not path.exists():
            return FileNotFoundError(f"{path} is missing")
        if hash_of_folder(path) != sha256:
            return ValueError(f"{path} is damaged")
        return None

    def _delete_others(self) -> None:
        names = {self._path(step).name for step, _ in self._stored()}
        for other in self.folder.glob("step_*"):
            if other.name not in names:
                shutil.rmtree(other)

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step}"

    def _stored(self) -> list[tuple[int, str]]:
        return self._read_latest() if (self.folder / _LATEST).exists() else []

    def _write_latest(self, stored: Sequence[tuple[int, str]]) -> None:
        states = [{"step": step, "sha256": sha256} for step, sha256 in stored]
        write_text(self.folder / _LATEST, json.dumps({"states": states}) + "\n", mode=0o600)

    def _read_latest(self) -> list[tuple[int, str]]:
        path = self.folder / _LATEST
        try:
            states = json.loads(path.read_bytes())["states"]
            stored = [(state["step"], state["sha256"]) for state in states]
            if not all(isinstance(step, int) and step > 0 for step, _ in stored):
                raise ValueError(f"steps are {[step for step, _ in stored]}")
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing; {self._what_to_do()}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); {self._what_to_do()}") from error
        return stored

    def _what_to_do(self) -> str:
        return (
            f"put a copy of it back, or delete the folder {self.folder}: a resumed run then does "
            "the steps again from the first, with the draws and the noise that they had"
        )


def _name(index: int) -> str:
    return f"{index:06}"


def _plain_array(leaf: Any) -> jax.Array:
    array = jnp.asarray(leaf)
    return jax.random.key_data(array) if _is_key(array) else array


def _like(leaf: Any, stored: jax.Array) -> Any:
    """What was stored, as the kind of array that `leaf` is."""
    array = jnp.asarray(leaf)
    if not array.committed:
        # What was on no device in particular goes to where the batch is, as it did.
        stored = jnp.asarray(np.asarray(stored))
    if _is_key(array):
        return jax.random.wrap_key_data(stored, impl=jax.random.key_impl(array))
    if array.weak_type and not array.shape:
        # A scalar that takes the format of what it meets.
        return jnp.asarray(stored.item())
    return stored


def _is_key(array: jax.Array) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
