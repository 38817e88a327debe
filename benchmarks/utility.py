"""Which accuracy, or perplexity, recipes reach at which ε, and without privacy.

    python -m benchmarks utility --recipes demo --epsilons 1 3 8 --folder runs/utility

Each recipe is run several times for each ε and without privacy, each time with a key of its own.
With a folder the same command goes on where it was stopped. Writes a JSON file and a picture beside
it.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.recipes import RECIPES, Recipe
from benchmarks.results_file import write_results
from dpjax.finetuning import RunDirectory, RunState, execute, set_up
from dpjax.option_checks import CheckedOptions, check_at_least, check_choice


@dataclasses.dataclass(frozen=True)
class Options(CheckedOptions):
    """What is trained, and where the runs are kept."""

    recipes: tuple[str, ...] = ("demo",)
    """Names of recipes; `all` for each of them."""
    epsilons: tuple[float, ...] = (1.0, 3.0, 8.0)
    """Targets."""
    num_keys: int = 3
    """Runs of each recipe at each ε, and without privacy."""
    data: Path | None = None
    """The folder with the folders of data sets that recipes read; default: data."""
    folder: Path | None = None
    """Of the runs, which are kept there; default: they are deleted at the end."""
    num_steps: int | None = None
    """Of each run, for a shorter one; default: as many as the recipe has."""
    output: Path = Path("benchmarks/results/utility.json")

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        for name in self.recipes:
            check_choice("recipes", name, (*RECIPES, "all"))
        check_at_least("num_keys", self.num_keys, 1)

    def chosen(self) -> list[Recipe]:
        """Returns the recipes, each once, in the order of the table."""
        wanted = RECIPES if "all" in self.recipes else self.recipes
        return [recipe for name, recipe in RECIPES.items() if name in wanted]


@dataclasses.dataclass(frozen=True)
class Case:
    """Runs that differ in their keys alone.

    Attributes:
        recipe: what is tuned.
        epsilon: its target; None without privacy.
        folders: one for each run.
    """

    recipe: Recipe
    epsilon: float | None
    folders: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The promise in words."""
        return "without privacy" if self.epsilon is None else f"ε = {self.epsilon:g}"


def cases(options: Options, folder: Path) -> list[Case]:
    """Returns what is to be run, in a folder; those without privacy last."""
    made = []
    length = "" if options.num_steps is None else f"-{options.num_steps}-steps"
    for recipe in options.chosen():
        for epsilon in (*options.epsilons, None):
            target = "none" if epsilon is None else f"{epsilon:g}"
            parent = folder / (recipe.name + length) / f"epsilon-{target}"
            folders = tuple(parent / f"key-{key + 1}" for key in range(options.num_keys))
            made.append(Case(recipe, epsilon, folders))
    return made


def measure(options: Options, folder: Path, console: Console) -> list[dict[str, Any]]:
    """Runs what has not been run yet in a folder; returns a row for each case."""
    rows = []
    data: dict[str, dict[str, Any]] = {}
    for case in cases(options, folder):
        recipe = case.recipe
        if recipe.name not in data:
            console.print(f"{recipe.name}: {recipe.about}", highlight=False)
            data[recipe.name] = recipe.write_data(folder / "data" / recipe.name, options.data)
        found = []
        for own in case.folders:
            console.print(f"{recipe.name}, {case.name}, {own.name}", highlight=False)
            found.append(run_once(case, data[recipe.name], own, options.num_steps))
        rows.append(_row(case, found))
    return _with_ratios(rows)


def run_once(
    case: Case, data: dict[str, Any], folder: Path, num_steps: int | None
) -> dict[str, Any]:
    """Returns the numbers of one run: of the finished one, if there is one, else it is run.

    An interrupted run goes on. Its seconds are those after the interruption.

    Raises:
        ValueError: the folder holds a finished run, and its numbers are missing.
    """
    kept = folder / "numbers.json"
    if kept.is_file():
        numbers: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return numbers
    run = folder / "run"
    state = RunDirectory(run).state() if run.exists() else RunState.NEW
    if state is RunState.FINISHED:
        raise ValueError(f"{run} is finished and {kept} is missing: delete {folder}")
    changes = {} if num_steps is None else {"num_epochs": None, "num_steps": num_steps}
    config = case.recipe.config(data, run, case.epsilon, **changes)
    config = dataclasses.replace(config, resume=run.exists())
    start = time.perf_counter()
    result = execute(set_up(config), Console(quiet=True))
    numbers = {
        "epsilon": result.epsilon,
        "seconds": time.perf_counter() - start,
        "numbers": dict(case.recipe.measure(result)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(numbers) + "\n", encoding="utf-8")
    return numbers


def _row(case: Case, found: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "recipe": case.recipe.name,
        "run": case.name,
        "epsilon": None if case.epsilon is None else max(run["epsilon"] for run in found),
        "seconds": statistics.median(run["seconds"] for run in found),
    }
    for name in found[0]["numbers"]:
        values = [run["numbers"][name] for run in found]
        spread = statistics.stdev(values) if len(values) > 1 else None
        row[name] = {"mean": statistics.mean(values), "deviation": spread, "values": values}
    return row


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Puts beside each mean what it is of the same recipe's without privacy."""
    best = {row["recipe"]: row for row in rows if row["epsilon"] is None}
    for row in rows:
        for name in [name for name, value in row.items() if isinstance(value, dict)]:
            row[f"{name}_ratio"] = row[name]["mean"] / best[row["recipe"]][name]["mean"]
    return rows


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("recipe", "run", "ε spent", "measure", "mean", "deviation", "/ no privacy", "s")
    for row in rows:
        spent = "unbounded" if row["epsilon"] is None else f"{row['epsilon']:.3f}"
        for name in [name for name, value in row.items() if isinstance(value, dict)]:
            spread = row[name]["deviation"]
            table.add_row(
                row["recipe"],
                row["run"],
                spent,
                name,
                f"{row[name]['mean']:.3f}",
                "" if spread is None else f"{spread:.3f}",
                f"{row[f'{name}_ratio']:.3f}",
                f"{row['seconds']:.0f}",
            )
    return table


def main(options: Options) -> None:
    """Trains, prints a table, writes the JSON file and the picture."""
    console = Console()
    if options.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(options, Path(folder), console)
    else:
        rows = measure(options, options.folder, console)
    console.print(_table(rows))
    measures = {name for row in rows for name in row if name.endswith("_ratio")}
    write_results(
        options.output,
        options,
        rows,
        keys=("recipe", "run"),
        ratios=tuple(sorted(measures)),
        title="What is left at which ε, by what there is without privacy",
    )
