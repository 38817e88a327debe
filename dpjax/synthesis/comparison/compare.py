"""private_comparison.json and .md: what private records say about the synthetic ones."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpjax_accounting import write_text

from dpjax.data import Completions, DataSource, Texts, read_language_records
from dpjax.synthesis.comparison.canaries import find_canaries
from dpjax.synthesis.comparison.classifier import measure_classifier
from dpjax.synthesis.comparison.copies import count_copies
from dpjax.synthesis.comparison.nearest import describe_distances
from dpjax.synthesis.comparison.page import comparison_markdown
from dpjax.synthesis.comparison.words import compare_ngrams, describe_lengths, split_words
from dpjax.synthesis.conditions import Columns
from dpjax.synthesis.config import SynthesisConfig
from dpjax.synthesis.finished_run import FinishedRun
from dpjax.synthesis.folder import SynthesisFolder
from dpjax.training import write_json

PRIVATE = (
    "PRIVATE: computed from private records without noise, which no ε covers. Do not publish, and "
    "do not choose options of a synthesis that is published by it."
)
_OWNER_ONLY = 0o600


def compare(
    config: SynthesisConfig, run: FinishedRun, folder: SynthesisFolder, columns: Columns
) -> dict[str, Any]:
    """Compares the records of the folder with private ones, and writes both files, mode 0600.

    Raises:
        FileNotFoundError, ValueError: the private records cannot be read.
    """
    source = DataSource(str(folder.records), text_column=columns.written, record_format="text")
    synthetic = _texts(source)
    found: dict[str, Any] = {
        "schema_version": 1,
        "warning": PRIVATE,
        "compared_with": config.compare_with,
        "lengths": None,
        "ngrams": None,
        "copies": None,
        "distances": None,
        "canaries": None,
        "classifier": None,
    }
    if config.compare_with is not None:
        real = _texts(dataclasses.replace(run.columns, path=config.compare_with, owner_column=None))
        ours, theirs = [split_words(t) for t in synthetic], [split_words(t) for t in real]
        found |= {
            "lengths": {"synthetic": describe_lengths(ours), "real": describe_lengths(theirs)},
            "ngrams": compare_ngrams(ours, theirs),
            "copies": count_copies(ours, theirs),
            "distances": describe_distances(ours, theirs),
            "canaries": find_canaries(run.folder, synthetic),
        }
    if config.test_data is not None and config.classifier is not None:
        found["classifier"] = measure_classifier(
            folder.records,
            config.test_data,
            config.classifier,
            text_column=columns.written,
            label_column=str(columns.given),
            max_length=run.config.training.max_length,
            folder=folder.work / "classifier",
        )
    write_json(folder.comparison, found, mode=_OWNER_ONLY)
    write_text(folder.comparison_page, comparison_markdown(found), mode=_OWNER_ONLY)
    return found


def _texts(source: DataSource) -> list[str]:
    records = read_language_records(source)
    if isinstance(records, Texts):
        return records.texts
    if isinstance(records, Completions):
        texts = [text for text in records.completions if isinstance(text, str)]
        if len(texts) == len(records):
            return texts
    raise ValueError(f"compare_with must hold texts, but {source.path} holds messages")
