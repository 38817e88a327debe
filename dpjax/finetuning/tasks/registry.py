"""The tasks by name."""

from __future__ import annotations

import datetime

from dpjax.finetuning.config import FinetuneConfig, TaskName
from dpjax.finetuning.tasks.base import Task
from dpjax.finetuning.tasks.causal_lm import CausalLanguage
from dpjax.finetuning.tasks.classification import SequenceClassification
from dpjax.finetuning.tasks.token_classification import TokenClassification

TASKS: dict[TaskName, type[Task]] = {
    "sequence_classification": SequenceClassification,
    "token_classification": TokenClassification,
    "causal_lm": CausalLanguage,
}


def make_task(config: FinetuneConfig, started_at: datetime.datetime) -> Task:
    """Makes the task of a run that was started at `started_at`, in local time.

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
    return TASKS[config.task].from_config(config, started_at)
