"""The metrics of a run in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any


class TensorBoard:
    """Writes every number of each step into a folder that TensorBoard shows.

    The folder is as private as the records: losses are computed from them without noise.

    Args:
        folder: where event files are written; made if it does not exist.

    Raises:
        ImportError: the package tensorboard is missing.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError:
            raise ImportError(
                "TensorBoard needs the package tensorboard: pip install 'dpjax[tensorboard]'"
            ) from None
        self._writer = Writer(fspath(folder))

    def on_step(self, row: Mapping[str, Any]) -> None:
        """Writes a point of each curve."""
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, step=row["step"])

    def on_end(self) -> None:
        """Closes the file."""
        self._writer.close()
