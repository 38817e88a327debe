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
    """Makes the task of a run that was started at `started_at`, in local time."""
    return TASKS[config.task].from_config(config, started_at)
