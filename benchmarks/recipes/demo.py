"""The recipe of `dpjax demo`, without its canaries."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from benchmarks.recipes.recipe import Recipe
from dpjax.demo.checkpoint import find_minilm
from dpjax.demo.run import Demo, make_config, write_data


def _write_data(folder: Path, given: Path | None) -> dict[str, Any]:
    del given
    train, held_out = folder / "train.csv", folder / "held_out.csv"
    if not folder.exists():
        write_data(folder)
    return {
        "model": str(find_minilm()),
        "train_data": str(train),
        "eval_data": str(held_out),
    }


def _options() -> dict[str, Any]:
    """What the demo asks for, of which files and promise are put in for each run."""
    any_path = Path("any")
    config = make_config(Demo(any_path, any_path), any_path, any_path, non_private=False)
    privacy = dataclasses.replace(config.privacy, target_epsilon=None)
    return {
        "tuning": config.tuning,
        "features": dataclasses.asdict(config.features),
        "training": dataclasses.asdict(config.training),
        "privacy": dataclasses.asdict(privacy),
    }


DEMO = Recipe(
    name="demo",
    about="a head on MiniLM, generated messages of a clinic",
    write_data=_write_data,
    options=_options(),
)
