"""One unlearning: check everything, retrain, unlearn, measure, report."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from dpjax_accounting import SCHEMA_VERSION, finish_folder, write_text
from rich.console import Console

from dpjax.data import Completions
from dpjax.models import (
    SplitModel,
    Trainable,
    read_config,
    revision_of,
    save_adapter,
    split_trainable,
)
from dpjax.privatize import RunKey
from dpjax.training import (
    Interrupts,
    delete,
    describe_versions,
    partial_of,
    stopping_on_file_errors,
    write_json,
)
from dpjax.unlearning.certified.certificate import describe_certificate
from dpjax.unlearning.config import UnlearnConfig
from dpjax.unlearning.measures.model import Measured, MeasuredRecords
from dpjax.unlearning.measures.truth_ratio import QuestionTexts, forget_quality, read_questions
from dpjax.unlearning.measures.verdict import RULE, judge, judge_controls
from dpjax.unlearning.reports.promise import describe_promise, not_covered, warning_of
from dpjax.unlearning.reports.report import render_report
from dpjax.unlearning.result import UnlearningResult
from dpjax.unlearning.setup import identity
from dpjax.unlearning.setup.certifiable import check_can_certify
from dpjax.unlearning.setup.folder import OWNER_ONLY, FolderState, UnlearningFolder
from dpjax.unlearning.setup.forget_set import ForgetSet, find_forget_set
from dpjax.unlearning.setup.prepared import Unlearning
from dpjax.unlearning.setup.tuned_run import TunedRun, read_run
from dpjax.unlearning.stages.forgetting import make_forget
from dpjax.unlearning.stages.measuring import measure_once, measured_records
from dpjax.unlearning.stages.retraining import check_can_retrain, retrain
from dpjax.unlearning.steps.stored_steps import StoredSteps

_STOPPED = "stopped; what is done is stored, and the same command with --resume goes on"


def set_up(config: UnlearnConfig) -> Unlearning:
    """Does all that can fail because of what was asked: no model is loaded, nothing is written.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: what was wrong, the value seen, what to do.
    """
    folder = UnlearningFolder(config.output_dir)
    stored = None
    if not config.resume:
        folder.check_free()
    else:
        folder.check_resumable()
        if folder.state() is FolderState.UNFINISHED:
            stored = folder.identity()
            if config.is_certified:
                folder.load_key()
    started_at = None if stored is None else datetime.datetime.fromisoformat(stored["started_at"])
    run = read_run(config.run, started_at=started_at)
    forget_set = find_forget_set(config, run)
    if config.is_certified:
        check_can_certify(run)
        # A target that cannot be met is found now.
        config.certified.to_steps()
    if config.baseline:
        check_can_retrain(run, forget_set.retain)
    num_layers = read_config(run.plan.checkpoint).num_layers
    if config.layer is not None and config.layer > num_layers:
        raise ValueError(
            f"layer must be at most {num_layers}, the layers of {run.config.model}, got "
            f"{config.layer}"
        )
    questions = _read_questions(config, run, forget_set)
    if stored is not None:
        identity.check_same(stored, identity.describe(config, run, forget_set))
    return Unlearning(config, run, forget_set, folder, stored is not None, questions)


def execute(unlearning: Unlearning, console: Console | None = None) -> UnlearningResult:
    """Retrains if that was asked, unlearns, writes the adapter, measures all models and reports.

    What is done before an interruption is kept: the baseline and the steps of unlearning with their
    states, and each model that is measured. With `resume` the result is the same as without
    interruption.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; it can be resumed.
        RunStopped: a loss is not finite, or the disk is full.
        RunInUse: another process has the folder.
        ValueError: the options of the run do not fit fewer records, or a model is damaged.
    """
    console = console or Console()
    folder = unlearning.folder
    with (
        folder.lock() as lock,
        Interrupts() as interrupts,
        interrupts.saying(_STOPPED, 0),
    ):
        expected = FolderState.UNFINISHED if unlearning.resumes else FolderState.NEW
        if folder.state() is not expected:
            raise FileExistsError(
                f"output_dir {folder.path} was changed by another process meanwhile; name a new "
                "folder"
            )
        with stopping_on_file_errors("while it was unlearning", "goes on from what is stored"):
            _begin(unlearning)
            result = _execute(unlearning, console, interrupts)
            folder.finish(lock)
    return result


def _begin(unlearning: Unlearning) -> None:
    """Notes what a resumption needs, unless this is one."""
    folder, config = unlearning.folder, unlearning.config
    if not unlearning.resumes:
        described = identity.describe(config, unlearning.run, unlearning.forget_set)
        folder.begin(described, RunKey.from_os_entropy() if config.is_certified else None)


def _execute(unlearning: Unlearning, console: Console, interrupts: Interrupts) -> UnlearningResult:
    config, run, folder = unlearning.config, unlearning.run, unlearning.folder
    rows = unlearning.forget_set

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    warning = warning_of(is_certified=config.is_certified)
    say(f"{len(rows.forget)} records to forget, {len(rows.retain)} retained; {warning}")
    records = measured_records(unlearning)
    retrained = None
    if config.baseline:
        say("training once more without the forget set")
        adapter = retrain(run, rows.retain, folder.retrained)
        retrained = measure_once(unlearning, "retrained", lambda: _load(run, adapter), records)
    original = _load(run, run.adapter)
    before = measure_once(unlearning, "original", lambda: original, records)
    if not folder.adapter.exists():
        say(f"unlearning by {config.method}, {unlearning.num_steps} steps")
        stored = StoredSteps(folder.checkpoints(), interrupts, say=say)
        unlearned, losses = make_forget(unlearning, original, stored)
        # A signal that came in the last step.
        interrupts.raise_pending()
        folder.write_losses(losses)
        _write_adapter(unlearning, unlearned)
    after = measure_once(unlearning, "unlearned", lambda: _load(run, folder.adapter), records)
    return _write_report(unlearning, records, before, after, retrained)


def _write_report(
    unlearning: Unlearning,
    records: MeasuredRecords,
    before: Measured,
    after: Measured,
    retrained: Measured | None,
) -> UnlearningResult:
    config, run, folder = unlearning.config, unlearning.run, unlearning.folder
    rows = unlearning.forget_set
    verdict = judge(before, after, retrained, confidence=config.confidence)
    controls = judge_controls(before, retrained, confidence=config.confidence)
    report = {
        "schema_version": 1,
        "warning": warning_of(is_certified=config.is_certified),
        "run": {"id": run.privacy["run"]["id"], "base_model": run.config.model},
        "method": {
            "name": config.method,
            "options": config.method_options(),
            "num_steps": unlearning.num_steps,
            "losses": folder.read_losses(),
        },
        "certificate": _certificate(config),
        "forget_set": {
            "named": rows.num_named,
            "records": len(rows.forget),
            "retained": len(rows.retain),
            "forget_without_targets": len(rows.forget) - len(unlearning.forget),
        },
        "measured": {part: len(data) for part, data in records.parts.items()},
        "relearn_steps": config.relearn_steps,
        "models": {
            "original": before.to_dict(),
            "unlearned": after.to_dict(),
            "retrained": None if retrained is None else retrained.to_dict(),
        },
        "truth_ratio": _compare_truth(after, retrained),
        "verdict": verdict.to_dict() | {"rule": RULE},
        "controls": {name: control.to_dict() for name, control in controls.items()},
        "promise": describe_promise(run, len(rows.forget)),
        "not_covered": not_covered(is_certified=config.is_certified),
        "options": {name: value for name, value in config.to_dict().items() if name != "resume"},
        "versions": describe_versions(),
    }
    write_text(folder.page, render_report(report), mode=OWNER_ONLY)
    # Last: where it is, all is done.
    write_json(folder.report, report, mode=OWNER_ONLY)
    return UnlearningResult(
        output_dir=folder.path,
        adapter=folder.adapter,
        over_unlearned=verdict.over_unlearned,
        under_unlearned=verdict.under_unlearned,
        report=report,
    )


def _load(run: TunedRun, adapter: Path) -> SplitModel:
    return split_trainable(run.load(adapter), Trainable.lora())


def _certificate(config: UnlearnConfig) -> dict[str, Any] | None:
    if not config.is_certified:
        return None
    assert config.certified.delta is not None
    return describe_certificate(config.certified.to_steps(), config.certified.delta)


def _compare_truth(after: Measured, retrained: Measured | None) -> dict[str, Any] | None:
    ratios = after.log_truth_ratios
    if ratios is None:
        return None
    others = None if retrained is None else retrained.log_truth_ratios
    quality = None if others is None else forget_quality(ratios, others)
    return {"questions": len(ratios), "forget_quality": quality}


def _read_questions(config: UnlearnConfig, run: TunedRun, rows: ForgetSet) -> QuestionTexts | None:
    if config.truth_ratio is None:
        return None
    records = run.records
    if not (isinstance(records, Completions) and records.are_texts):
        raise ValueError(
            "truth_ratio needs a run on prompts and completions that are texts, got "
            f"{type(records).__name__.lower()}: leave it out"
        )
    prompts = {str(records.prompts[row]) for row in rows.forget}
    return read_questions(config.truth_ratio, prompts)


def _write_adapter(unlearning: Unlearning, model: SplitModel) -> None:
    """Writes adapter/, after the note that it has no privacy: merging looks for it there."""
    config, run, folder = unlearning.config, unlearning.run, unlearning.folder
    is_certified = config.is_certified
    note: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "private": False,
        "status": "complete",
        "warnings": [
            warning_of(is_certified=is_certified),
            *not_covered(is_certified=is_certified),
        ],
        "certificate": _certificate(config),
    }
    write_json(folder.privacy, note)
    partial = partial_of(folder.adapter)
    # What a process left that was killed.
    delete(partial)
    revision = revision_of(run.plan.checkpoint)
    save_adapter(model.merge(), partial, base=run.config.model, revision=revision)
    finish_folder(partial, folder.adapter)
