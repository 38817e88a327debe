"""What follows once the tuned model and its privacy report are written.

The model is paid for: nothing that is measured, attacked, generated, drawn or reported here can end
the run. What fails becomes a sentence in the results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from dpjax_accounting import report_page, write_text

from dpjax.audit import AttackResult, audit_page
from dpjax.finetuning.auditing.run_audit import audit_run
from dpjax.finetuning.files.run_directory import RunDirectory
from dpjax.finetuning.reports import run_report
from dpjax.finetuning.reports.samples import write_samples
from dpjax.finetuning.result import FinetuneResult, store_result
from dpjax.finetuning.setup.model.load import load_model
from dpjax.finetuning.setup.plan import Plan
from dpjax.finetuning.setup.start import Run
from dpjax.finetuning.tasks.base import Evaluation
from dpjax.finetuning.training.attack import attack_run
from dpjax.finetuning.training.evaluate import evaluate
from dpjax.finetuning.training.loop import Trained
from dpjax.finetuning.training.owner_evaluation import evaluate_owners, in_words
from dpjax.models import SplitModel, check_adapter
from dpjax.training import Interrupts, write_json

T = TypeVar("T")

STAGES = (
    "privacy.html",
    "the check of adapter/",
    "the evaluation on held-out records",
    "the evaluation before tuning",
    "the evaluation of clients",
    "the attack",
    "attack.json",
    "the audit",
    "audit.json",
    "audit.html",
    "the answers to held-out prompts",
    "training.png",
    "roc.png",
    "report.md",
    "the note of the results",
)
_LONGEST_REASON = 300


class Stages:
    """Does one stage after the other; one that fails leaves a sentence.

    Attributes:
        warnings: the sentences.
        left: the names of the stages that are not done.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self.warnings: list[str] = []
        self.left = list(STAGES)
        self._interrupts = interrupts

    def attempt(self, name: str, action: Callable[[], T]) -> T | None:
        """What `action` returns, or None if it fails.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; the stage is still left.
        """
        try:
            value = action()
        except Exception as error:
            # It may be what became of a KeyboardInterrupt.
            self._interrupts.raise_pending()
            self.warnings.append(_sentence(name, error))
            value = None
        self._interrupts.raise_pending()
        self.left.remove(name)
        return value


def measure(
    run: Run, tuned: SplitModel, privacy: dict[str, Any], trained: Trained, stages: Stages
) -> FinetuneResult:
    """Evaluates, attacks, lets the model write, and reports.

    Args:
        run: whose model/ and privacy.json are written already.
        tuned: the model after the last step.
        privacy: the privacy report.
        trained: for the rows of metrics.jsonl.
        stages: gets the sentence of each stage that fails.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; `stages.left` says what is not done.
    """
    plan, directory = run.plan, run.directory
    stages.attempt("privacy.html", lambda: write_text(directory.privacy_page, report_page(privacy)))
    stages.attempt("the check of adapter/", lambda: _check_adapter(directory, tuned))
    stages.warnings += _training_remarks(trained)
    held_out = stages.attempt(
        "the evaluation on held-out records",
        lambda: evaluate(plan.task, tuned, plan.evaluation, run.layout),
    )
    stages.warnings += _evaluation_remarks(held_out)
    before = stages.attempt("the evaluation before tuning", lambda: _accuracy_before(run))
    clients = stages.attempt("the evaluation of clients", lambda: _evaluate_clients(run, tuned))
    attack = stages.attempt("the attack", lambda: attack_run(run, tuned, held_out))
    stages.attempt("attack.json", lambda: _write_attack(directory, attack))
    audit = stages.attempt("the audit", lambda: _audit(run, tuned, privacy))
    stages.attempt("audit.json", lambda: _write_audit(directory, audit))
    stages.attempt("audit.html", lambda: _write_audit_page(directory, audit))
    samples = stages.attempt("the answers to held-out prompts", lambda: write_samples(plan, tuned))
    guarantee = privacy["guarantee"] or {"epsilon": None, "delta": None}
    result = FinetuneResult(
        output_dir=directory.path,
        epsilon=guarantee["epsilon"],
        delta=guarantee["delta"],
        eval_accuracy=None if held_out is None else held_out.accuracy,
        eval_accuracy_before=before,
        eval_loss=None if held_out is None else held_out.loss,
        eval_perplexity=None if held_out is None else held_out.perplexity,
        eval_reward_margin=None if held_out is None else held_out.reward_margin,
        eval_span_f1=None if held_out is None else held_out.span_f1,
        quality=None if held_out is None else held_out.quality,
        quality_details=(*(() if held_out is None else held_out.details), *(clients or ())),
        attack=attack,
        audit=audit,
        num_left_out=len(plan.train) - len(run.trained_records),
        privacy=privacy,
        metrics=trained.metrics,
        samples=samples or [],
    )

    def with_warnings() -> FinetuneResult:
        return dataclasses.replace(result, warnings=tuple(stages.warnings))

    stages.attempt("training.png", lambda: run_report.draw_training(directory, plan, result))
    stages.attempt("roc.png", lambda: run_report.draw_roc(directory, result))
    stages.attempt("report.md", lambda: _write_report(directory, plan, with_warnings()))
    stages.attempt("the note of the results", lambda: store_result(directory, with_warnings()))
    return with_warnings()


def _accuracy_before(run: Run) -> float | None:
    """Returns the accuracy on held-out records before tuning; None of a head that knows nothing."""
    if run.plan.task.makes_head and not run.plan.config.head.label_words:
        return None
    # Read again: training has taken over the buffers of what it changed.
    untuned = load_model(run.plan, run.run_key, run.layout)
    return evaluate(run.plan.task, untuned, run.plan.evaluation, run.layout).accuracy


def _evaluate_clients(run: Run, tuned: SplitModel) -> tuple[tuple[str, str], ...]:
    """Writes clients.json of a federated run; returns what the table of results says of it."""
    plan, directory = run.plan, run.directory
    directory.clients.unlink(missing_ok=True)
    if plan.owner_training is None or plan.owners is None:
        return ()
    told = evaluate_owners(plan.task, tuned, plan.train, plan.owners, run.layout)
    write_json(directory.clients, told, mode=0o600)
    return in_words(told)


def _write_report(directory: RunDirectory, plan: Plan, result: FinetuneResult) -> None:
    """Writes report.md; if that fails, one with the privacy and the warnings alone."""
    try:
        run_report.write_report(directory, plan, result)
    except Exception as error:
        warnings = (*result.warnings, _sentence("report.md", error))
        run_report.write_short_report(
            directory, plan, dataclasses.replace(result, warnings=warnings)
        )
        raise


def _write_attack(directory: RunDirectory, attack: AttackResult | None) -> None:
    # An earlier one may be there, of an attempt that was interrupted.
    directory.attack.unlink(missing_ok=True)
    if attack is not None:
        write_json(directory.attack, attack.to_dict())


def _check_adapter(directory: RunDirectory, tuned: SplitModel) -> None:
    if directory.adapter.exists():
        check_adapter(tuned, directory.adapter)


def _audit(run: Run, tuned: SplitModel, privacy: dict[str, Any]) -> dict[str, Any] | None:
    if run.audited is None:
        return None
    return audit_run(run, run.audited, tuned, guarantee=privacy["guarantee"])


def _write_audit(directory: RunDirectory, audit: dict[str, Any] | None) -> None:
    directory.audit.unlink(missing_ok=True)
    if audit is not None:
        write_json(directory.audit, audit)


def _write_audit_page(directory: RunDirectory, audit: dict[str, Any] | None) -> None:
    directory.audit_page.unlink(missing_ok=True)
    if audit is not None:
        write_text(directory.audit_page, audit_page(audit))


def _training_remarks(trained: Trained) -> list[str]:
    remarks = list(trained.remarks)
    counts = [row["num_nonfinite"] for row in trained.metrics]
    if any(counts):
        remarks.append(
            f"In {sum(count > 0 for count in counts)} of {len(counts)} steps there are records "
            "whose loss or gradient is not finite: they take no part in the mean loss, and a "
            "gradient that is not finite is left out of the sum. metrics.jsonl counts them in "
            "num_nonfinite."
        )
    if trained.num_missing_rows:
        remarks.append(
            f"metrics.jsonl has lost the rows of {trained.num_missing_rows} steps: the file was "
            "missing or damaged when the run was resumed. The model does not depend on it."
        )
    return remarks


def _evaluation_remarks(held_out: Evaluation | None) -> list[str]:
    if held_out is None or not held_out.num_nonfinite:
        return []
    if not len(held_out.finite_losses):
        return ["No held-out record has a finite loss: the tuned model is of no use."]
    return [
        f"The loss of {held_out.num_nonfinite} of {len(held_out.losses)} held-out records is not "
        f"finite: they take no part in the mean loss and the attack{held_out.remark}."
    ]


def _sentence(name: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if len(reason) > _LONGEST_REASON:
        reason = reason[:_LONGEST_REASON] + " …"
    return f"{name} failed: {type(error).__name__}{': ' if reason else ''}{reason}"
