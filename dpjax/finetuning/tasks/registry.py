"""The tasks by name."""

from __future__ import annotations

import datetime

from dpjax.finetuning.config import FinetuneConfig, TaskName
from dpjax.finetuning.tasks.base import Task
from dpjax.finetuning.tasks.causal_lm import CausalLanguage
from dpjax.finetuning.tasks.classification import SequenceClassification
from dpjax.finetuning.tasks.label_words import LabelWordClassification
from dpjax.finetuning.tasks.preference import PreferenceTuning
from dpjax.finetuning.tasks.templated import TemplatedClassification
from dpjax.finetuning.tasks.token_classification import TokenClassification

TASKS: dict[TaskName, type[Task]] = {
    "sequence_classification": SequenceClassification,
    "token_classification": TokenClassification,
    "causal_lm": CausalLanguage,
    "preference": PreferenceTuning,
}


def make_task(config: FinetuneConfig, started_at: datetime.datetime) -> Task:
    """Makes the task of a run that was started at `started_at`, in local time.

    Raises:
        ValueError: the task has no canaries of the kind, or no score of the name, that is asked
            for.

    Example:
        >>> from dpjax.finetuning import Privacy
        >>> from dpjax.data import DataSource
        >>> config = FinetuneConfig(
        ...     model="path/to/checkpoint",
        ...     train_data=DataSource("train.jsonl"),
        ...     eval_data=DataSource("dev.jsonl"),
        ...     output_dir="runs/first",
        ...     task="causal_lm",
        ...     privacy=Privacy(target_epsilon=3.0),
        ... )
        >>> make_task(config, datetime.datetime(2026, 1, 31)).summary()
        'the mean of the loss over the tokens that count'
    """
    _check_audit(config)
    make = TASKS[config.task]
    if config.head.template is not None:
        with_words = config.reads_language_head
        make = LabelWordClassification if with_words else TemplatedClassification
    return make.from_config(config, started_at)


def _check_audit(config: FinetuneConfig) -> None:
    audit, task = config.audit, TASKS[config.task]
    if not audit.is_wanted:
        return
    for name, choices in (("kind", task.canary_kinds), ("score", task.audit_scores)):
        value = getattr(audit, name)
        if value != "auto" and value not in choices:
            raise ValueError(
                f"audit.{name} must be one of {', '.join(choices)} with task={config.task}, got"
                f" {value!r}"
            )
