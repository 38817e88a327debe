"""Accuracy against ε on the task of the demo, and what a run without privacy reaches.

    python -m benchmarks utility --epsilons 1 3 8

The recipe of `dpjax demo` without its canaries: a head on MiniLM, tuned on generated messages, once
for each ε and once without privacy. Writes a JSON file and a picture beside it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.results_file import write_results
from dpjax.demo.checkpoint import find_minilm
from dpjax.demo.run import Demo, make_config, write_data
from dpjax.finetuning import Audit, FinetuneConfig, execute, set_up


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained."""

    epsilons: tuple[float, ...] = (1.0, 3.0, 8.0)
    """Targets, a run each."""
    num_steps: int | None = None
    """Of each run; default: as many as the demo has."""
    output: Path = Path("benchmarks/results/utility.json")


def configs(options: Options, folder: Path) -> dict[str, FinetuneConfig]:
    """Returns the runs by name: at each ε, and without privacy."""
    demo = Demo(folder, find_minilm())
    train, held_out = write_data(folder / "data")
    length = {} if options.num_steps is None else {"num_steps": options.num_steps}
    made: dict[str, FinetuneConfig] = {}
    for epsilon in (*options.epsilons, None):
        config = make_config(demo, train, held_out, non_private=epsilon is None)
        privacy = config.privacy
        if epsilon is not None:
            privacy = dataclasses.replace(privacy, target_epsilon=epsilon)
        name = "without privacy" if epsilon is None else f"ε = {epsilon:g}"
        made[name] = dataclasses.replace(
            config,
            privacy=privacy,
            audit=Audit(),
            training=dataclasses.replace(config.training, **length),
            output_dir=str(folder / f"run-{len(made)}"),
        )
    return made


def measure(options: Options, console: Console) -> list[dict[str, Any]]:
    """Returns a row for each run."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for run, config in configs(options, Path(name)).items():
            result = execute(set_up(config), console)
            rows.append({"run": run, "epsilon": result.epsilon, "accuracy": result.eval_accuracy})
    best = rows[-1]["accuracy"]
    return [row | {"accuracy_ratio": row["accuracy"] / best} for row in rows]


def main(options: Options) -> None:
    """Trains, prints a table, writes the JSON file and the picture."""
    rows = measure(options, Console(quiet=True))
    table = Table("run", "ε spent", "accuracy", "by that without privacy")
    for row in rows:
        spent = "unbounded" if row["epsilon"] is None else f"{row['epsilon']:.3f}"
        table.add_row(row["run"], spent, f"{row['accuracy']:.3f}", f"{row['accuracy_ratio']:.3f}")
    Console().print(table)
    write_results(
        options.output,
        options,
        rows,
        keys=("run",),
        ratios=("accuracy_ratio",),
        title="accuracy / without privacy, task of the demo",
    )
