"""A run of `fit`: iterated step by step, or run to its end."""

from __future__ import annotations

import dataclasses
import secrets
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpjax_accounting import EpsilonBySteps, Mechanism
from rich.console import Console

from dpjax.basics.typing import PyTree
from dpjax.privatize import ClippingRule, NoiseStrategy, RunKey
from dpjax.training.callbacks.callback import Callback, CallbackCaller
from dpjax.training.callbacks.progress import TrainingProgress
from dpjax.training.fitting.report import report_fit
from dpjax.training.fitting.stored.followed_run import FollowedRun
from dpjax.training.fitting.stored.stored_run import StoredRun
from dpjax.training.loop import MicrobatchesOfStep, StepDone, run_steps
from dpjax.training.steps import TrainingSteps
from dpjax.training.watches.divergence import DivergenceWatch

if TYPE_CHECKING:
    from dpjax.training.fitting.auditing.audit_of_fit import AuditOfFit


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FitResult:
    """What training came to.

    Attributes:
        params: the trained parameters.
        state: the optimizer's state.
        epsilon: ε of the steps that were done; None without privacy.
        delta: δ of the guarantee; None without privacy.
        metrics: what each step saw, as `StepDone.row` has it. Private: it has no noise.
        privacy: the privacy report, with the schema of dpjax_accounting.
        audit: the report of the audit, once all steps are done; None without one. Private: it has
            the coins, and a score of each record that has one.
    """

    params: PyTree
    state: PyTree
    epsilon: float | None
    delta: float | None
    metrics: list[dict[str, Any]]
    privacy: dict[str, Any]
    audit: dict[str, Any] | None = None


@dataclasses.dataclass(eq=False, kw_only=True)
class Fit:
    """A run that `fit` has set up: `run()` does all its steps, a loop one after another.

    A loop may leave it early, and `run()` or a later loop goes on where that one left. `result()`
    then says what the steps done so far have come to, and what they have cost.

    Attributes:
        mechanism: what the accountant counts; None without privacy.
        delta: δ of the guarantee; None without privacy.
        delta_is_default: whether δ was left to dpjax.
        rule: of clipping; None without privacy.
        noise_strategy: of noise that is correlated over steps, public; None of other noise.
        run_key: the secret of the run.
        num_steps: how many steps are planned.
        params: the parameters after the last step that was done. The next step takes over their
            buffers: copy what is to be kept.
        state: the optimizer's state, likewise.
        frozen: what the loss reads beside them.
        steps: how a step is computed.
        microbatch_size: records processed at once.
        batches: gives the microbatches of a step.
        spent: knows ε after each step; None without privacy.
        watch: tells whether training has diverged.
        audited: the records with coins; None without an audit.
        stored: keeps the files of a run with a folder; None without one.
        steps_completed: how many steps are done.
        metrics: what they saw.
        run_id: names the run in its report.
    """

    mechanism: Mechanism | None
    delta: float | None
    delta_is_default: bool
    rule: ClippingRule | None
    noise_strategy: NoiseStrategy | None
    run_key: RunKey
    num_steps: int
    params: PyTree
    state: PyTree
    frozen: PyTree
    steps: TrainingSteps
    microbatch_size: int
    batches: MicrobatchesOfStep
    spent: EpsilonBySteps | None
    watch: DivergenceWatch
    audited: AuditOfFit | None = None
    stored: StoredRun | FollowedRun | None = None
    steps_completed: int = 0
    metrics: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    run_id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(16))
    _audit: dict[str, Any] | None = None
    _is_audited: bool = False

    def __repr__(self) -> str:
        return f"Fit(step {self.steps_completed} of {self.num_steps})"

    def __iter__(self) -> Iterator[StepDone]:
        """Does the steps that are left, one at a time, and keeps the files of a run that has any.

        Raises:
            RunDiverged: parameters or losses are not finite any more.
            RunInterrupted, RunStoppedByFiles, RunInUse: of a run with a folder; the message says
                how it goes on.
        """
        return self._follow(shows=True)

    def _follow(self, *, shows: bool) -> Iterator[StepDone]:
        return self.steps_left() if self.stored is None else self.stored.follow(self, shows=shows)

    def steps_left(self) -> Iterator[StepDone]:
        """Does the steps that are left, one at a time, and writes nothing.

        Raises:
            RunDiverged: parameters or losses are not finite any more.
        """
        for done in run_steps(
            self.steps,
            self.batches,
            self.params,
            self.state,
            self.frozen,
            first=self.steps_completed,
            num_steps=self.num_steps,
            spent=self.spent,
            watch=self.watch,
        ):
            self.params, self.state, self.steps_completed = done.params, done.state, done.step
            self.metrics.append(done.row())
            if done.remark is not None:
                warnings.warn(done.remark, stacklevel=2)
            self.watch.check_losses(done.step, done.num_records, done.num_losses)
            if done.step == self.num_steps:
                self.watch.check_parameters(done.step, bool(done.are_finite))
            yield done

    def run(
        self, console: Console | None = None, *, callbacks: Sequence[Callback] = ()
    ) -> FitResult:
        """Does the steps that are left, shows progress, and returns what they have come to.

        Args:
            console: where progress is shown; default: a new one. `Console(quiet=True)` is silent.
            callbacks: are told of each step. One that fails is not called again; a warning says so.

        Raises:
            RunDiverged, RunInterrupted, RunStoppedByFiles, RunInUse: as in a loop.
        """
        shown = Console() if console is None else console
        is_private = self.mechanism is not None
        with (
            TrainingProgress(shown, self.num_steps, self.steps_completed, is_private) as progress,
            CallbackCaller(callbacks) as caller,
        ):
            for done in self._follow(shows=bool(callbacks)):
                caller.on_step(done.row())
                progress.update(done.step, done.loss, done.epsilon, done.num_records)
        for remark in caller.remarks:
            warnings.warn(remark, stacklevel=2)
        return self.result()

    def result(self) -> FitResult:
        """Returns what the steps done so far have come to.

        ε is theirs if their number was chosen without looking at the records, or at anything that
        was computed from them. Whoever stopped because of what they saw has the ε of all steps
        that were planned; the report has both. Of a run with a folder the state is stored first,
        unless it is; ε is then of all steps that any process may have shown.

        Raises:
            RunStoppedByFiles: for instance because the disk is full.
        """
        steps, total = self.steps_completed, None
        if self.stored is not None:
            self.stored.put_down(self)
            steps, total = self.stored.steps_released(self), self.stored.total(self)
        privacy = self.report(steps, dataset_total=total)
        guarantee = privacy["guarantee"]
        return FitResult(
            params=self.params,
            state=self.state,
            epsilon=None if guarantee is None else guarantee["epsilon"],
            delta=self.delta,
            metrics=list(self.metrics),
            privacy=privacy,
            audit=self.open_coins(privacy),
        )

    def report(
        self,
        steps: int,
        *,
        dataset_total: dict[str, Any] | None = None,
        remarks: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Returns the privacy report of so many steps.

        Args:
            steps: how many it counts.
            dataset_total: what all runs on the data set have spent; None without a ledger.
            remarks: what else a reader must know.
        """
        report = report_fit(
            self.mechanism,
            self.delta,
            self.rule,
            noise_strategy=self.noise_strategy,
            num_steps=self.num_steps,
            steps_completed=steps,
            run_key=self.run_key,
            run_id=self.run_id,
            delta_is_default=self.delta_is_default,
        )
        report["dataset_total"] = dataset_total
        report["warnings"] = [*report["warnings"], *remarks]
        if self.audited is None:
            return report
        return self.audited.disclose(report, is_private=self.mechanism is not None)

    def seal_coins(self, folder: Path) -> None:
        """Writes which coins there are into the folder of the run, if it is audited.

        Raises:
            OSError: for instance because the disk is full.
        """
        if self.audited is not None:
            self.audited.seal(folder, self.run_key)

    def open_coins(self, privacy: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the report of the audit once all steps are done, and before that None.

        The parameters are paid for: an audit that fails is a warning, and there is no report.

        Args:
            privacy: the report of all steps.
        """
        if self.audited is None or self.steps_completed < self.num_steps:
            return None
        if not self._is_audited:
            self._is_audited = True
            folder = self.stored.directory.path if isinstance(self.stored, StoredRun) else None
            try:
                self._audit = self.audited.build(self.params, privacy, self.mechanism, folder)
            except Exception as error:
                reason = f"the audit failed: {type(error).__name__}: {error}"
                warnings.warn(reason, RuntimeWarning, stacklevel=2)
        return self._audit
