"""Accuracy of federated heads and adapters on SST-2 at which ε for a client, and without privacy.

    python -m benchmarks federated_utility --data data --recipes head

SST-2 is dealt out to clients by labels (Dirichlet). MiniLM is tuned by DP-FedAvg. Each run has a
key of its own; the deal is the same in all. With a folder the same command goes on where it was
stopped.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.recipes.sst2 import write_sst2
from benchmarks.results_file import write_results
from dpjax.basics.option_checks import CheckedOptions, check_at_least, check_choice
from dpjax.demo.checkpoint import find_minilm
from dpjax.federated import federate
from dpjax.finetuning import RunDirectory, RunState

RECIPES: dict[str, dict[str, Any]] = {
    "head": {
        "tuning": "head",
        "clients": {"local_epochs": 2, "local_learning_rate": 0.5, "num_rounds": 100},
        "privacy": {"clip_norm": 0.5},
        "training": {"max_length": 64},
    },
    "lora": {
        "tuning": "lora",
        "num_layers": 5,
        "lora": {"rank": 8, "layers_to_transform": (3, 4), "start_a": "principal"},
        "clients": {"local_epochs": 1, "local_learning_rate": 0.2, "num_rounds": 40},
        "privacy": {"clip_norm": 0.5},
        "training": {"max_length": 48},
    },
}


@dataclasses.dataclass(frozen=True)
class Options(CheckedOptions):
    """What is trained, and where the runs are kept."""

    recipes: tuple[str, ...] = ("head",)
    """head and lora."""
    epsilons: tuple[float, ...] = (3.0, 8.0)
    """Targets, for a client."""
    num_clients: int = 500
    dirichlet_alpha: float = 0.5
    cohort_size: int = 100
    num_rounds: int | None = None
    """Of each run, for a shorter one; default: as many as the recipe has."""
    num_keys: int = 1
    """Runs of each recipe at each ε, and without privacy."""
    data: Path | None = None
    """The folder with the folder sst2; default: data."""
    folder: Path | None = None
    """Of the runs, which are kept there; default: they are deleted at the end."""
    output: Path = Path("benchmarks/results/federated_utility.json")

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        for name in self.recipes:
            check_choice("recipes", name, tuple(RECIPES))
        check_at_least("num_keys", self.num_keys, 1)


def options_of(
    options: Options, recipe: str, epsilon: float | None, data: dict[str, Any]
) -> dict[str, Any]:
    """Returns the options of a run, but for its folder.

    Args:
        options: of the benchmark.
        recipe: its name.
        epsilon: its target; None without privacy.
        data: the options that name the records.
    """
    made = {**RECIPES[recipe], **data, "model": str(find_minilm())}
    made["clients"] = made["clients"] | {
        "num_clients": options.num_clients,
        "dirichlet_alpha": options.dirichlet_alpha,
        "cohort_size": options.cohort_size,
        "local_batch_size": 8,
        "records_per_client": 64,
        "clients_at_once": 16,
    }
    if options.num_rounds is not None:
        made["clients"]["num_rounds"] = options.num_rounds
    if epsilon is None:
        return made | {"privacy": {}, "non_private": True}
    return made | {"privacy": made["privacy"] | {"target_epsilon": epsilon}}


def run_once(made: dict[str, Any], folder: Path) -> dict[str, float | None]:
    """Returns the numbers of a run: of the finished one, if there is one, else it is run."""
    kept = folder / "numbers.json"
    if kept.is_file():
        found: dict[str, float | None] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    run = folder / "run"
    resumes = run.exists() and RunDirectory(run).state() is not RunState.NEW
    result = federate(**made, output_dir=run, resume=resumes)
    told = json.loads((run / "clients.json").read_text(encoding="utf-8"))
    numbers = {
        "epsilon": result.epsilon,
        "clients": told["num_clients"],
        "accuracy": result.eval_accuracy,
        **{f"client_{name}": told["over_clients"]["accuracy"][name] for name in ("min", "median")},
    }
    kept.write_text(json.dumps(numbers) + "\n", encoding="utf-8")
    return numbers


def measure(options: Options, folder: Path) -> list[dict[str, Any]]:
    """Runs what has not been run yet in a folder; returns a row for each recipe and ε."""
    data, rows = write_sst2(folder / "data", options.data), []
    for recipe in options.recipes:
        for epsilon in (*options.epsilons, None):
            target = "none" if epsilon is None else f"{epsilon:g}"
            made = options_of(options, recipe, epsilon, data)
            parents = [
                folder / recipe / f"epsilon-{target}" / f"key-{key + 1}"
                for key in range(options.num_keys)
            ]
            found = [run_once(made, parent) for parent in parents]
            row: dict[str, Any] = {"recipe": recipe, "target": target}
            for name in found[0]:
                values = [numbers[name] for numbers in found]
                row[name] = None if None in values else statistics.mean(values)
            rows.append(row)
    return rows


def main(options: Options) -> None:
    """Trains, prints a table and writes the JSON file."""
    if options.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(options, Path(folder))
    else:
        rows = measure(options, options.folder)
    names = ("recipe", "clients", "ε", "accuracy", "worst client", "median client")
    table = Table(*names, title="Accuracy on held-out records, and of clients on their own")
    for row in rows:
        epsilon = "unbounded" if row["epsilon"] is None else f"{row['epsilon']:.3f}"
        numbers = [f"{row[name]:.3f}" for name in ("accuracy", "client_min", "client_median")]
        table.add_row(row["recipe"], f"{row['clients']:.0f}", epsilon, *numbers)
    Console().print(table)
    write_results(options.output, options, rows, keys=("recipe", "target"))
