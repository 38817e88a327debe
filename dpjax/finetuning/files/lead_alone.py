"""What one process of several does alone, and what all do and one may fail at."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from dpjax.training import (
    RunDiverged,
    RunInterrupted,
    RunInUse,
    RunStopped,
    RunStoppedByFiles,
    from_lead,
    is_lead,
)

T = TypeVar("T")

_SECONDS_BETWEEN_LOOKS = 0.2
_BYTES_OF_AN_ERROR = 8192
_CHARACTERS_OF_A_MESSAGE = 1200
_CHARACTERS_OF_A_REASON = 120
# What one process raises, all raise as what it is; a subclass as its parent.
_KINDS: tuple[type[BaseException], ...] = (
    *(RunInterrupted, RunDiverged, RunInUse, RunStoppedByFiles, RunStopped),
    *(FileExistsError, FileNotFoundError, OSError),
    *(ImportError, ValueError, TypeError),
)
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
    failed: list[BaseException] = []
    mark = f"dpjax/{next(_marks)}" if takes_long else None

    def tell() -> dict[str, Any] | None:
        try:
            found.append(action())
        except BaseException as error:
            failed.append(error)
            return _described(error)
        finally:
            if mark is not None:
                _key_value_store().key_value_set(mark, "done")
        return None

    if mark is not None and not is_lead():
        _wait_for(mark)
    told = from_lead(tell)
    if failed:
        raise failed[0]
    if told is not None:
        raise _error_of(told, 0)
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

    own = np.zeros(_BYTES_OF_AN_ERROR, np.uint8)
    if failed:
        content = json.dumps(_described(failed[0]), ensure_ascii=False).encode()
        own[: len(content)] = np.frombuffer(content, np.uint8)
    told = np.asarray(multihost_utils.process_allgather(own)).astype(np.uint8)
    if failed:
        raise failed[0]
    for process, content in enumerate(told):
        if content.any():
            raise _error_of(json.loads(content.tobytes().rstrip(b"\0")), process)
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


def _described(error: BaseException) -> dict[str, Any]:
    kinds = [kind.__name__ for kind in _KINDS if isinstance(error, kind)]
    if isinstance(error, KeyboardInterrupt):
        kinds = [RunInterrupted.__name__]
    name = type(error).__name__
    return {
        "kind": kinds[0] if kinds else name,
        "message": (str(error) or name)[:_CHARACTERS_OF_A_MESSAGE],
        "step": getattr(error, "step", 0),
        "signal": getattr(error, "signal_number", None),
    }


def _error_of(told: dict[str, Any], process: int) -> BaseException:
    kinds = {kind.__name__: kind for kind in _KINDS}
    kind, message = kinds.get(told["kind"], RuntimeError), f"process {process}: {told['message']}"
    if issubclass(kind, RunInterrupted):
        signal = {} if told["signal"] is None else {"signal_number": told["signal"]}
        return kind(message, told["step"], **signal)
    return kind(message, told["step"]) if issubclass(kind, RunDiverged) else kind(message)


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
