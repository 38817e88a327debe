"""A classifier that is trained on the synthetic records and tested on real ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console

from dpjax.data import DataSource, read_records
from dpjax.finetuning import FinetuneConfig, Training
from dpjax.finetuning import execute as execute_run
from dpjax.finetuning import set_up as set_up_run
from dpjax.models import read_config, resolve_checkpoint
from dpjax.training import delete

_BATCH_SIZE = 32


def measure_classifier(
    records: Path,
    test_data: str,
    checkpoint: str,
    *,
    text_column: str,
    label_column: str,
    max_length: int,
    folder: Path,
) -> dict[str, Any]:
    """Trains on the synthetic records, without privacy, which they need not, and tests.

    The recipe is the default one of finetune: LoRA, three passes over the records.

    Args:
        records: file of the synthetic records.
        test_data: held-out real ones.
        checkpoint: of the classifier.
        text_column: of both.
        label_column: of both.
        max_length: the most tokens of a text.
        folder: new folder of the training, deleted at the end.

    Returns:
        Accuracy on the held-out records, and the share that has their most frequent label.

    Raises:
        FileNotFoundError, ValueError: something given does not exist or does not fit.
    """
    train, held_out = (
        DataSource(str(path), text_column=text_column, label_column=label_column)
        for path in (records, test_data)
    )
    labels = Counter(read_records(held_out).labels)
    num_records = len(read_records(train))
    positions = read_config(resolve_checkpoint(checkpoint)).max_positions
    delete(folder)
    try:
        result = execute_run(
            set_up_run(
                FinetuneConfig(
                    model=checkpoint,
                    train_data=train,
                    eval_data=held_out,
                    output_dir=str(folder),
                    training=Training(
                        expected_batch_size=min(_BATCH_SIZE, num_records),
                        max_length=min(max_length, positions),
                    ),
                    non_private=True,
                )
            ),
            Console(quiet=True),
        )
    finally:
        delete(folder)
    return {
        "accuracy": result.eval_accuracy,
        "share_of_most_frequent_label": max(labels.values()) / labels.total(),
        "held_out_records": labels.total(),
        "checkpoint": checkpoint,
    }
