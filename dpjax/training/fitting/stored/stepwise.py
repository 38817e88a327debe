"""What the files of a run ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from dpjax_accounting import Mechanism

from dpjax.basics.typing import PyTree
from dpjax.privatize import ClippingRule
from dpjax.training.loop import StepDone
from dpjax.training.watches.divergence import DivergenceWatch


class StepwiseRun(Protocol):
    """A run that does one step after another, and reports what they cost; `Fit` is one."""

    num_steps: int
    params: PyTree
    state: PyTree
    frozen: PyTree
    watch: DivergenceWatch
    steps_completed: int
    metrics: list[dict[str, Any]]
    run_id: str

    @property
    def mechanism(self) -> Mechanism | None:
        """What the accountant counts; None without privacy."""

    @property
    def delta(self) -> float | None:
        """δ of the guarantee; None without privacy."""

    @property
    def rule(self) -> ClippingRule | None:
        """Of clipping; None without privacy."""

    def steps_left(self) -> Iterator[StepDone]:
        """Does the steps that are left, one at a time, and writes nothing."""

    def report(
        self, steps: int, *, dataset_total: dict[str, Any] | None, remarks: Sequence[str]
    ) -> dict[str, Any]:
        """Returns the privacy report of so many steps."""

    def seal_coins(self, folder: Path) -> None:
        """Writes which coins there are into the folder of the run, if it is audited."""

    def open_coins(self, privacy: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the report of the audit once all steps are done; None without an audit."""
