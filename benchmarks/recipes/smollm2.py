"""Recipes for SmolLM2-135M-Instruct: SST-2 in a prompt, and texts of restaurants from their data.

Sized for two CPU cores: the layers below what is trained are computed once for each record.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from benchmarks.recipes.overlap import bleu, rouge_l
from benchmarks.recipes.recipe import Recipe
from benchmarks.recipes.sst2 import folder_of, write_sst2
from dpjax.demo.checkpoint import find_smollm2
from dpjax.finetuning import FinetuneResult

TEMPLATE = "Review: {text}\nThe sentiment of this review is"
# Of the test set: each meaning is answered once, and has two to forty references.
_NUM_MEANINGS = 60
_REFERENCES = "references.json"


def _with_sst2(folder: Path, given: Path | None) -> dict[str, Any]:
    return {"model": str(find_smollm2()), **write_sst2(folder, given)}


SST2_WORDS = Recipe(
    name="sst2-smollm2-words",
    about="a head on four layers of SmolLM2 at the end of a prompt, which starts from words, SST-2",
    write_data=_with_sst2,
    options={
        "tuning": "head",
        "head": {"template": TEMPLATE, "label_words": ("0=negative", "1=positive")},
        "features": {"layers": (16, 20, 24, 30)},
        "training": {
            "expected_batch_size": 3000,
            "microbatch_size": "auto",
            "num_steps": 100,
            "optimizer": "sgd",
            "learning_rate": 12.0,
            "schedule": "constant",
            "ema_decay": 0.95,
            "max_length": 80,
        },
        "privacy": {"clip_norm": 0.4},
    },
)


def _with_e2e(folder: Path, given: Path | None) -> dict[str, Any]:
    source = folder_of(given, "e2e", ("dev.csv", "test.csv"), "E2E (columns mr and ref)")
    with (source / "test.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["mr"], row["ref"]) for row in csv.DictReader(file)]
    references: dict[str, list[str]] = {}
    for meaning, text in rows:
        references.setdefault(meaning, []).append(text)
    # Evenly over the file, which is sorted by length.
    every = len(references) // _NUM_MEANINGS
    chosen = dict(list(references.items())[::every][:_NUM_MEANINGS])
    held_out = folder / "held_out.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with held_out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("mr", "ref"))
        # The first rows are those that the report answers: each meaning once.
        writer.writerows((meaning, texts[0]) for meaning, texts in chosen.items())
        writer.writerows((meaning, text) for meaning in chosen for text in chosen[meaning][1:])
    (folder / _REFERENCES).write_text(json.dumps(chosen), encoding="utf-8")
    columns = {"prompt_column": "mr", "completion_column": "ref"}
    return {
        "model": str(find_smollm2()),
        "train_data": {"path": str(source / "dev.csv"), **columns},
        "eval_data": {"path": str(held_out), **columns},
    }


def _quality_of_texts(result: FinetuneResult) -> dict[str, float]:
    config = json.loads((result.output_dir / "config.json").read_text(encoding="utf-8"))
    references = Path(config["eval_data"]["path"]).with_name(_REFERENCES)
    of_meaning = json.loads(references.read_text(encoding="utf-8"))
    written = [sample.written for sample in result.samples]
    expected = [of_meaning[sample.prompt] for sample in result.samples]
    assert result.eval_perplexity is not None
    return {
        "perplexity": result.eval_perplexity,
        "bleu": bleu(written, expected),
        "rouge_l": rouge_l(written, expected),
    }


# Chosen on training texts, as the rank was. The meaning alone has SmolLM2 go on with code.
_BEFORE_TEXT = "\nA sentence that says all of this:\n"
E2E = Recipe(
    name="e2e-smollm2",
    about="LoRA in the two upper layers of SmolLM2, E2E",
    write_data=_with_e2e,
    options={
        "task": "causal_lm",
        "separator": _BEFORE_TEXT,
        "tuning": "lora",
        "lora": {
            "rank": 4,
            "alpha": 4.0,
            "layers_to_transform": (28, 29),
            "freeze_a": True,
            "start_a": "principal",
        },
        "generation": {"num_prompts": _NUM_MEANINGS, "max_new_tokens": 48},
        "training": {
            "expected_batch_size": 512,
            "microbatch_size": 32,
            "num_steps": 16,
            "learning_rate": 2e-3,
            "max_length": 128,
        },
        "privacy": {"clip_norm": 1.0},
    },
    measure=_quality_of_texts,
)
