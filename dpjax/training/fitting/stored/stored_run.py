"""A run of `fit` that lives in a folder: locked, on record before it is done, and resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from dpjax_accounting import Ledger, dataset_total, report_page, write_text

from dpjax.basics.typing import PyTree
from dpjax.privatize import RunKey
from dpjax.training.devices.lead import agree_with_lead, from_lead, telling_failures
from dpjax.training.files.atomic import write_json
from dpjax.training.files.checkpoint_writer import CheckpointWriter
from dpjax.training.files.checkpoints import Checkpoints
from dpjax.training.files.directory_lock import DirectoryLock
from dpjax.training.files.interrupt import Interrupts, interrupts_of_loop
from dpjax.training.files.metrics_log import MetricsLog
from dpjax.training.files.run_ledger import RunLedger
from dpjax.training.fitting.stored.directory import FitDirectory
from dpjax.training.fitting.stored.record import StepRecord
from dpjax.training.fitting.stored.sentences import AGAIN, GOES_ON, interrupted
from dpjax.training.fitting.stored.shown import ShownSteps, fingerprint
from dpjax.training.fitting.stored.states import are_taken_over, state_to_store, write_params
from dpjax.training.fitting.stored.stepwise import StepwiseRun
from dpjax.training.loop import StepDone
from dpjax.training.reports.report import TOTAL_UNKNOWN
from dpjax.training.stopped import RunDiverged, RunInterrupted, RunStopped, stopping_on_file_errors


@dataclasses.dataclass(eq=False, kw_only=True)
class StoredRun:
    """The files of a run, and when they are written.

    Attributes:
        directory: where they lie.
        identity: what must be the same when the run is resumed, with its `run_id`.
        run_key: the secret of the run.
        ledger: its place in the ledger of the data set; None without one.
        resumes: whether it goes on with one that was interrupted.
        overwrite: whether an unfinished run is deleted first.
        checkpoint_every_seconds: between states; None for no such rule.
        checkpoint_every_steps: likewise.
        checkpoints: the states of the run.
        lock: of the folder, while it is held.
        floor: how many steps were on record before this process did any.
        shown_until: the last step that anybody has seen the parameters of; 0 if none.
    """

    directory: FitDirectory
    identity: dict[str, Any]
    run_key: RunKey
    ledger: RunLedger | None
    resumes: bool
    overwrite: bool
    checkpoint_every_seconds: float | None
    checkpoint_every_steps: int | None
    checkpoints: Checkpoints
    lock: DirectoryLock | None = None
    floor: int = 0
    shown_until: int = 0
    _is_begun: bool = False
    _is_finished: bool = False
    _is_put_down: bool = True
    _charged: Ledger | None = None

    def steps_released(self, run: StepwiseRun) -> int:
        """Returns how many steps somebody may have seen: none is forgotten after a crash."""
        return max(run.steps_completed, self.floor)

    def follow(self, run: StepwiseRun, *, shows: bool) -> Iterator[StepDone]:
        """Does the steps that are left, one at a time, and stores what a resumption needs.

        Where several processes train, this is the lead's part; `FollowedRun` is the others'.

        Args:
            run: that does the steps.
            shows: whether anybody sees the parameters in between: a loop does, callbacks may.

        Raises:
            RunInterrupted: Ctrl-C or SIGTERM; the state after the last whole step is stored.
            RunStoppedByFiles: for instance because the disk is full; earlier states stay.
            RunDiverged: parameters or losses are not finite any more.
            RunStopped: a step that was shown comes out with other roundings now.
            RunInUse: another process has the folder.
        """
        if self._is_finished:
            return
        with telling_failures():
            self.lock = self.lock or self.directory.private.lock()
        try:
            with interrupts_of_loop() as interrupts:
                yield from self._follow(run, interrupts, shows)
        finally:
            lock, self.lock = self.lock, None
            if lock is not None:
                lock.release()

    def put_down(self, run: StepwiseRun) -> None:
        """Stores the state of a run that was left early, unless it is stored already.

        Raises:
            OSError: for instance because the disk is full; earlier states stay.
            RunInUse: another process has the folder.
        """
        if self._is_put_down or self.lock is not None or are_taken_over(run.params):
            return
        state = state_to_store(run)
        with (
            telling_failures(),
            stopping_on_file_errors("while it was being left", GOES_ON, AGAIN),
            self.directory.private.lock(),
        ):
            self._check_still_ours(run)
            self._put_down(run, state)
        agree_with_lead(signal=None)

    def total(self, run: StepwiseRun) -> dict[str, Any] | None:
        """Returns what all runs on the data set have spent, by the ledger; None without one."""
        return from_lead(lambda: self._total(run))

    def _total(self, run: StepwiseRun) -> dict[str, Any] | None:
        if self._charged is None or run.delta is None:
            return None
        return dataset_total(self._charged, run.delta)

    def _follow(self, run: StepwiseRun, interrupts: Interrupts, shows: bool) -> Iterator[StepDone]:
        try:
            with stopping_on_file_errors("in training", GOES_ON, AGAIN):
                with _telling():
                    self._begin(run)
                yield from self._train(run, interrupts, shows)
                if not self._is_finished:
                    self._finish(run)
        except RunInterrupted:
            raise
        except (KeyboardInterrupt, Exception) as error:
            # An exception may be what somebody made of the KeyboardInterrupt.
            if not isinstance(error, KeyboardInterrupt) and interrupts.number is None:
                if not isinstance(error, RunStopped) and not self.steps_released(run):
                    # It would fail again in the same way, and nothing was seen of it.
                    self._stop(run, 0)
                raise
            step = self._stored_step()
            raise RunInterrupted(
                f"stopped at once; {AGAIN} goes on after step {step}, whose state is stored",
                step,
                interrupts.acknowledge(),
            ) from None

    def _begin(self, run: StepwiseRun) -> None:
        """Writes what a resumption needs, the key last; then puts the run on record."""
        directory = self.directory
        if are_taken_over(run.params):
            raise RuntimeError(
                "a step of this run was broken off, and its parameters with it. Make the run again,"
                f" by {AGAIN}"
            )
        if self._is_begun:
            self._check_still_ours(run)
        elif self.resumes:
            self.checkpoints.forget_after(run.steps_completed)
            write_json(directory.private.identity, self.identity, mode=0o600)
        else:
            directory.clear_for_new_run(overwrite=self.overwrite)
            write_json(directory.private.identity, self.identity, mode=0o600)
            run.seal_coins(directory.path)
            self.checkpoints.start()
            directory.private.store_key(self.run_key)
        self._is_begun = True
        if self.ledger is not None:
            self._charged = self.ledger.charge()
        if not directory.privacy.exists():
            self._write_privacy(run, self.floor, run.steps_completed)

    def _check_still_ours(self, run: StepwiseRun) -> None:
        """Another process may have gone on with the run while the lock was free."""
        private = self.directory.private
        is_newest = self.checkpoints.newest() <= run.steps_completed
        if not (private.run_key.exists() and private.load_key() == self.run_key and is_newest):
            raise FileExistsError(
                f"output_dir {self.directory.path} was used meanwhile: another process has gone on "
                f"with this run, or replaced it. Make the run again, by {AGAIN}"
            )

    def _train(self, run: StepwiseRun, interrupts: Interrupts, shows: bool) -> Iterator[StepDone]:
        first = run.steps_completed
        seconds, steps = self.checkpoint_every_seconds, self.checkpoint_every_steps
        record = StepRecord(
            lambda on_record, done: self._write_privacy(run, on_record, done),
            first=first,
            num_steps=run.num_steps,
            on_record=min(self.steps_released(run), run.num_steps),
            seconds=seconds,
            steps=steps,
        )
        several, shown = jax.process_count() > 1, None
        with contextlib.ExitStack() as opened:
            with _telling():
                log = opened.enter_context(MetricsLog(self.directory.metrics, keep_steps=first))
                writer = opened.enter_context(
                    CheckpointWriter(self.checkpoints, record.renew, seconds=seconds, steps=steps)
                )
                if shows or self.shown_until:
                    shown = opened.enter_context(ShownSteps(self.directory.shown))
                if first < run.num_steps:
                    record.cover(first + 1)
            agree_with_lead(signal=None)
            try:
                for done in run.steps_left():
                    self._is_put_down = False
                    if done.step == first + 1:
                        # Until now an interruption lost nothing, and compiling may take minutes.
                        opened.enter_context(interrupts.deferred())
                    is_last = done.step == run.num_steps
                    is_noted = shows or done.step <= self.shown_until
                    bits = fingerprint(done.params) if is_noted else None
                    with _telling():
                        if shown is not None and bits is not None:
                            self._note_shown(run, shown, done.step, bits)
                        log.append(done.row())
                        is_due = not is_last and writer.is_due()
                        if is_last:
                            writer.wait()
                        elif several:
                            # The others are told if it fails, and do not begin the next step.
                            record.cover(done.step + 1)
                    agreed = agree_with_lead(signal=interrupts.number, stores=is_due)
                    if is_last:
                        self._finish(run)
                    elif agreed.stores or agreed.signal is not None:
                        run.watch.check_parameters(done.step, bool(done.are_finite))
                        writer.store(done.step, (done.params, done.state))
                    if agreed.signal is not None:
                        writer.wait()
                        if not self._is_finished:
                            self._stop(run, done.step)
                        interrupts.acknowledge()
                        raise interrupted(done.step, run.num_steps, agreed.signal)
                    yield done
                    if not is_last:
                        record.cover(done.step + 1)
            except GeneratorExit:
                self._leave(run, writer)
                raise
            except RunDiverged as diverged:
                self._stop(run, diverged.step)
                raise

    def _note_shown(self, run: StepwiseRun, shown: ShownSteps, step: int, bits: Any) -> None:
        try:
            shown.note(step, bits)
        except RunStopped:
            # Nobody may see these parameters, as what the run has come to either.
            run.params = run.state = None
            self._is_put_down = True
            raise

    def _leave(self, run: StepwiseRun, writer: CheckpointWriter) -> None:
        """Stores the state of a run whose loop was left; nobody would see what is raised here."""
        try:
            writer.wait()
            if jax.process_count() == 1:
                self._put_down(run, (run.params, run.state))
            # Others may not have left theirs: `put_down` is called by all.
        except (OSError, ValueError) as error:
            warnings.warn(
                f"the state after step {run.steps_completed} is not stored: {error}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _put_down(self, run: StepwiseRun, state: PyTree) -> None:
        # The ledger stays charged with the whole run: who leaves a loop may have seen the results.
        if not self._is_finished:
            self._store(run, state)
            steps = self.steps_released(run)
            self._write_privacy(run, steps, steps)
        self._is_put_down = True

    def _stop(self, run: StepwiseRun, step: int) -> None:
        """Puts on record that no more steps are done for now."""
        steps = max(step, self.floor)
        if self._charged is not None:
            self._charged.settle(run.run_id, steps)
        self._write_privacy(run, steps, steps)
        self._is_put_down = True

    def _finish(self, run: StepwiseRun) -> None:
        state = state_to_store(run)
        with _telling():
            self._write_results(run, state)
        agree_with_lead(signal=None)

    def _write_results(self, run: StepwiseRun, state: PyTree) -> None:
        """Writes what was spent, then what the run came to, and deletes its secrets.

        Once all steps are done, no state of the ledger prevents it: they were charged before the
        first.
        """
        directory, step = self.directory, run.num_steps
        self._store(run, state)
        try:
            if self._charged is not None:
                self._charged.settle(run.run_id, step)
            total, remarks = self._total(run), []
        except (OSError, ValueError) as error:
            total, remarks = None, [f"{TOTAL_UNKNOWN} The reason: {error}"]
            self._charged = None
        privacy = run.report(step, dataset_total=total, remarks=remarks)
        write_json(directory.privacy, privacy)
        write_params(directory.params, state[0])
        self._write_page(self.directory.privacy_page, report_page, privacy)
        self._write_audit(run.open_coins(privacy))
        self._is_finished = self._is_put_down = True
        directory.private.empty()
        lock, self.lock = self.lock, None
        directory.private.remove(lock)

    def _write_audit(self, audit: dict[str, Any] | None) -> None:
        if audit is not None:
            from dpjax.audit import audit_page

            write_json(self.directory.audit, audit)
            self._write_page(self.directory.audit_page, audit_page, audit)

    def _write_page(
        self, path: Path, draw: Callable[[dict[str, Any]], str], report: dict[str, Any]
    ) -> None:
        """Writes a page; what cannot be drawn does not end a run that is paid for."""
        try:
            write_text(path, draw(report))
        except OSError:
            raise
        except Exception as error:
            warnings.warn(
                f"{path.name} failed: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _store(self, run: StepwiseRun, state: PyTree) -> None:
        if self.checkpoints.newest() < run.steps_completed:
            self.checkpoints.save(run.steps_completed, state)

    def _stored_step(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self.checkpoints.newest()
        return 0

    def _write_privacy(self, run: StepwiseRun, on_record: int, done: int) -> None:
        remarks = []
        if on_record > done:
            remarks.append(
                "This run is going on, or was killed. Steps are put on record before they are "
                f"done: {done} of the {on_record} on record were done when this was written."
            )
        privacy = run.report(on_record, dataset_total=self._total(run), remarks=remarks)
        write_json(self.directory.privacy, privacy)


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """Where several processes train, all end with the sentence of what fails here."""
    with telling_failures(), stopping_on_file_errors("in training", GOES_ON, AGAIN):
        yield
