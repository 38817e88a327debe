"""Recipes for SST-2 (Socher et al. 2013): 6,920 sentences of reviews, positive or negative.

Held out are the development and the test set together, 2,693 sentences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.recipes.recipe import Recipe, folder_of
from dpjax.demo.checkpoint import find_minilm


def write_sst2(folder: Path, given: Path | None) -> dict[str, Any]:
    """Writes the records that are held out into a folder; returns the options that name the data.

    Args:
        folder: of the recipe.
        given: the folder of data sets; None for `data`.

    Raises:
        FileNotFoundError: a file is missing there.
    """
    columns = {"column_names": ("text", "label")}
    names = ("train.tsv", "dev.tsv", "test.tsv")
    source = folder_of(given, "sst2", names, "SST-2 (a sentence, a tab and its label in each line)")
    held_out = folder / "held_out.tsv"
    folder.mkdir(parents=True, exist_ok=True)
    parts = [(source / name).read_text(encoding="utf-8") for name in ("dev.tsv", "test.tsv")]
    # The last line of a file may have no end.
    held_out.write_text("\n".join(part.rstrip("\n") for part in parts) + "\n", encoding="utf-8")
    return {
        "train_data": {"path": str(source / "train.tsv"), **columns},
        "eval_data": {"path": str(held_out), **columns},
    }


def _with_minilm(folder: Path, given: Path | None) -> dict[str, Any]:
    return {"model": str(find_minilm()), **write_sst2(folder, given)}


SST2_HEAD = Recipe(
    name="sst2-head",
    about="a head on three layers of MiniLM, SST-2",
    write_data=_with_minilm,
    options={
        "tuning": "head",
        "features": {"layers": (4, 5, 6)},
        "training": {
            "expected_batch_size": 3000,
            "microbatch_size": "auto",
            "num_steps": 100,
            "optimizer": "sgd",
            "learning_rate": 8.0,
            "schedule": "constant",
            "ema_decay": 0.95,
            "max_length": 64,
        },
        "privacy": {"clip_norm": 0.4},
    },
)

SST2_HEAD_ZEROTH_ORDER = Recipe(
    name="sst2-head-zeroth-order",
    about="a head on three layers of MiniLM by forward passes alone, SST-2",
    write_data=_with_minilm,
    options={
        "tuning": "head",
        "features": {"layers": (4, 5, 6)},
        "training": {
            "gradient": "zeroth-order",
            "num_directions": 32,
            "expected_batch_size": 3000,
            "microbatch_size": 1024,
            "num_steps": 200,
            "optimizer": "sgd",
            "learning_rate": 1.0,
            "schedule": "constant",
            "ema_decay": 0.95,
            "max_length": 64,
        },
        "privacy": {"clip_norm": 2.0},
    },
)

SST2_LORA = Recipe(
    name="sst2-lora",
    about="LoRA and a head on MiniLM, SST-2",
    write_data=_with_minilm,
    options={
        "num_layers": 5,
        "tuning": "lora",
        "lora": {
            "rank": 16,
            "alpha": 16.0,
            "layers_to_transform": (3, 4),
            "freeze_a": True,
            "start_a": "principal",
        },
        "training": {
            "expected_batch_size": 2048,
            "num_epochs": 10.0,
            "learning_rate": 1e-2,
            "head_learning_rate": 1e-1,
            "label_smoothing": 0.2,
            "max_length": 48,
        },
        "privacy": {"clip_norm": 0.5},
    },
)
