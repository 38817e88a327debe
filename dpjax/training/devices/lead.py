"""Several processes, of which one keeps the files: process 0, the lead."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.training.devices.told_errors import describe_error, error_of

T = TypeVar("T")

_LEAD = 0
_LENGTH_BYTES = 8


class Agreed(NamedTuple):
    """What the processes do after a step, the same in each.

    Attributes:
        signal: the number of a signal that one of them got; None without any.
        stores: whether the state is stored.
        has_failed: whether the lead could not go on.
    """

    signal: int | None
    stores: bool
    has_failed: bool


def is_lead() -> bool:
    """Whether this process keeps the files of a run; the only process always does."""
    return jax.process_index() == _LEAD


def from_lead(action: Callable[[], T]) -> T:
    """Calls the action in the lead only, and returns what it returns in every process.

    Every process must call it. What the lead raises, all raise.

    Args:
        action: returns what JSON can hold.

    Raises:
        Exception: what the action raised; in other processes with "process 0: " before its message.
    """
    if jax.process_count() == 1:
        return action()
    if not is_lead():
        told = json.loads(_broadcast(b""))
        if told["error"] is not None:
            raise error_of(told["error"], _LEAD)
        value: T = told["value"]
        return value
    try:
        found = action()
        message = json.dumps({"error": None, "value": found})
    except BaseException as error:
        _broadcast(json.dumps({"error": describe_error(error)}).encode())
        raise
    _broadcast(message.encode())
    return found


def agree(*, signal: int | None, stores: bool = False, has_failed: bool = False) -> Agreed:
    """Exchanges what each process wants after a step; every process must call it.

    Args:
        signal: the number of a signal that this process got; None without any.
        stores: whether the lead wants to store the state.
        has_failed: whether the lead cannot go on.
    """
    own = np.array([signal or 0, stores, has_failed], np.int32)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        own = np.asarray(multihost_utils.process_allgather(own)).max(axis=0)
    return Agreed(int(own[0]) or None, bool(own[1]), bool(own[2]))


@contextlib.contextmanager
def telling_failures() -> Iterator[None]:
    """In the lead, before an `agree_with_lead`: what fails here, that raises in all others."""
    try:
        yield
    except Exception as error:
        if jax.process_count() > 1:
            agree(signal=None, has_failed=True)
            tell = functools.partial(_raise, error)
            with contextlib.suppress(type(error)):
                from_lead(tell)
        raise


def agree_with_lead(*, signal: int | None, stores: bool = False) -> Agreed:
    """Exchanges what each process wants, as `agree`; raises in all what the lead failed with.

    Raises:
        Exception: what was raised within `telling_failures` in the lead.
    """
    agreed = agree(signal=signal, stores=stores)
    if agreed.has_failed:
        from_lead(lambda: None)
    return agreed


def copy_whole(leaf: Any) -> np.ndarray:
    """Returns a copy of one array on the host, as a whole; of a typed key its numbers.

    Every process must call it for an array of which this process has only a part.
    """
    if isinstance(leaf, np.ndarray):
        return leaf
    array = jnp.asarray(leaf)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if array.is_fully_addressable:
        return np.array(array)
    if array.is_fully_replicated:
        return np.array(array.addressable_data(0))
    from jax.experimental import multihost_utils

    return np.array(multihost_utils.process_allgather(array, tiled=True))


def whole_on_host(tree: PyTree) -> PyTree:
    """Returns copies of arrays on the host, each as a whole; of typed keys their numbers.

    Every process must call it where several train. Arrays are gathered one after another: a device
    holds the whole of one of them meanwhile.
    """
    return jax.tree.map(copy_whole, tree)


def placed_from_lead(stored: PyTree, like: PyTree) -> PyTree:
    """Returns the arrays of the lead, where those that they replace lie; every process calls it.

    Args:
        stored: NumPy arrays in the structure of `like`; read in the lead only.
        like: arrays of the same shapes and formats, which every process has.
    """
    leaves, structure = jax.tree.flatten(like)
    given = jax.tree.leaves(stored) if is_lead() else [None] * len(leaves)
    return jax.tree.unflatten(structure, map(_placed, given, leaves))


def _raise(error: Exception) -> None:
    raise error


def _placed(stored: np.ndarray | None, like: Any) -> Any:
    if not isinstance(like, jax.Array):
        like = np.asarray(like)
    is_key = jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
    plain = jax.random.key_data(like) if is_key else like
    size = plain.size * plain.dtype.itemsize
    own = b"" if stored is None else np.ascontiguousarray(stored, plain.dtype).tobytes()
    host = np.frombuffer(_broadcast_bytes(own, size), plain.dtype).reshape(plain.shape)
    if not isinstance(like, jax.Array):
        return host.copy()
    placed = jax.make_array_from_callback(host.shape, plain.sharding, lambda part: host[part])
    return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(like)) if is_key else placed


def _broadcast(content: bytes) -> bytes:
    """The bytes of the lead, in every process."""
    length = _broadcast_bytes(len(content).to_bytes(_LENGTH_BYTES, "little"), _LENGTH_BYTES)
    return _broadcast_bytes(content, int.from_bytes(length, "little"))


def _broadcast_bytes(content: bytes, size: int) -> bytes:
    """The `size` bytes of the lead, in every process."""
    if jax.process_count() == 1 or size == 0:
        return content
    from jax.experimental import multihost_utils

    # Whole numbers, which are sent by adding zeros: -0.0 + 0.0 would have another sign.
    words = np.zeros(-(-size // 4), np.uint32)
    if is_lead():
        words.view(np.uint8)[:size] = np.frombuffer(content, np.uint8)
    sent = np.asarray(multihost_utils.broadcast_one_to_all(words))
    return sent.astype(np.uint32).tobytes()[:size]
