"""The protocol of callbacks, and what a run does with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

# Computed from noisy sums and public numbers alone.
RELEASED_METRICS = ("step", "epsilon")


class Callback(Protocol):
    """Is told of each step of a run, and of its end. It changes nothing of the run.

    Example:
        >>> class Losses:
        ...     def __init__(self):
        ...         self.seen = []
        ...
        ...     def on_step(self, row):
        ...         self.seen.append(row["loss"])
        ...
        ...     def on_end(self): ...
        >>> losses: Callback = Losses()
        >>> losses.on_step({"step": 1, "loss": 0.5})
        >>> losses.seen
        [0.5]
    """

    def on_step(self, row: Mapping[str, Any]) -> None:
        """Gets the numbers of a step that is done, as `StepDone.row` has them.

        All but `step` and `epsilon` is computed from private records without noise.
        """

    def on_end(self) -> None:
        """The run has ended or was stopped: nothing more comes."""


class CallbackCaller:
    """Calls the callbacks of a run. One that fails is not called again, and leaves a sentence.

    Training is paid for with ε: a tracker that cannot be reached must not end it.

    Args:
        callbacks: called in their order.

    Attributes:
        remarks: a sentence on each callback that has failed.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.remarks: list[str] = []
        self._callbacks = list(callbacks)

    def on_step(self, row: Mapping[str, Any]) -> None:
        """Tells each of them of a step."""
        for callback in list(self._callbacks):
            self._call(callback, "on_step", dict(row))

    def __enter__(self) -> CallbackCaller:
        return self

    def __exit__(self, *exception: object) -> None:
        for callback in list(self._callbacks):
            self._call(callback, "on_end")

    def _call(self, callback: Callback, method: str, *args: Any) -> None:
        try:
            getattr(callback, method)(*args)
        except Exception as error:
            self._callbacks.remove(callback)
            self.remarks.append(
                f"the callback {type(callback).__name__} failed in {method} and is not called "
                f"again: {type(error).__name__}: {error}"
            )
