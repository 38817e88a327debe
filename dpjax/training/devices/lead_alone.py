"""What one process of several does alone, and what all do and one may fail at."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from dpjax.training.devices.lead import from_lead, is_lead
from dpjax.training.devices.told_errors import BYTES_OF_AN_ERROR, describe_error, error_of
from dpjax.training.stopped import RunStopped

T = TypeVar("T")

_SECONDS_BETWEEN_LOOKS = 0.2
_CHARACTERS_OF_A_REASON = 120
_marks = itertools.count()


def in_lead(action: Callable[[], T], *, takes_long: bool = False) -> T | None:
    """Calls the action in the lead only; every process must call this.

    Args:
        action: may return anything.
        takes_long: whether it may take minutes. Then the others ask now and then whether it is
            done: an exchange between devices that takes too long is taken for a fault.

    Returns:
        What the action returned, in the lead; None elsewhere.

    Raises:
        BaseException: what the action raised; in other processes with "process 0: " before its
            message.

    Example:
        >>> in_lead(lambda: 1 + 1)
        2
    """
    if jax.process_count() == 1:
        return action()
    found: list[T] = []
    mark = f"dpjax/{next(_marks)}" if takes_long else None

    def act() -> None:
        try:
            found.append(action())
        finally:
            if mark is not None:
                _key_value_store().key_value_set(mark, "done")

    if mark is not None and not is_lead():
        _wait_for(mark)
    from_lead(act)
    return found[0] if found else None


def in_all(action: Callable[[], T]) -> T:
    """Calls the action in every process; what it raises in one of them, all raise.

    The action exchanges nothing: the others would wait for one that has failed before.

    Raises:
        BaseException: what the action raised here; or in another process, with its number before
            the message.

    Example:
        >>> in_all(lambda: 1 + 1)
        2
    """
    if jax.process_count() == 1:
        return action()
    found: list[T] = []
    failed: list[BaseException] = []
    try:
        found.append(action())
    except BaseException as error:
        failed.append(error)
    from jax.experimental import multihost_utils

    own = np.zeros(BYTES_OF_AN_ERROR, np.uint8)
    if failed:
        content = json.dumps(describe_error(failed[0]), ensure_ascii=False).encode()
        own[: len(content)] = np.frombuffer(content, np.uint8)
    told = np.asarray(multihost_utils.process_allgather(own)).astype(np.uint8)
    if failed:
        raise failed[0]
    for process, content in enumerate(told):
        if content.any():
            raise error_of(json.loads(content.tobytes().rstrip(b"\0")), process)
    return found[0]


def raise_if_cut_off(error: BaseException) -> None:
    """Raises RunStopped where an exchange with other processes failed: one of them has ended."""
    message = " ".join(str(error).split())
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in message:
        raise RunStopped(
            f"the run stopped in training: another process has ended or cannot be reached "
            f"({message[:_CHARACTERS_OF_A_REASON]}); start all of them again with --resume, to go "
            "on from the state that was stored last"
        ) from error


def _wait_for(mark: str) -> None:
    """Returns once the lead has set the mark. If the lead dies, JAX ends this process."""
    while True:
        try:
            _key_value_store().key_value_try_get(mark)
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        else:
            return


def _key_value_store() -> Any:
    # What JAX's processes tell each other without a device; it has no public name.
    from jax._src import distributed

    return distributed.global_state.client
