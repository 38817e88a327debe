"""Which accuracy, or perplexity, recipes reach at which ε, and without privacy.

    python -m benchmarks utility --recipes demo --epsilons 1 3 8 --folder runs/utility
    python -m benchmarks utility --recipes sst2-head --libraries all --data data

Each recipe is run several times for each ε and without privacy, each time with a key of its own.
With a folder the same command goes on where it was stopped. Writes a JSON file and a picture beside
it.

Other libraries tune heads by the same recipe: the features that dpjax computes once, Poisson
batches, clip norm, steps, optimizer and average are the same, and each finds and reports its ε
itself. Their seconds are those of noise search, steps and accounting alone.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.recipes import RECIPES, Recipe
from benchmarks.recipes.peers import LIBRARIES, NotComparable, is_installed
from benchmarks.recipes.runs import Case, RecipeData, run_once
from benchmarks.results_file import write_results
from dpjax.basics.option_checks import CheckedOptions, check_at_least, check_choice
from dpjax.finetuning import RunInterrupted

# The exit status of a command that Ctrl-C has ended.
INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class Options(CheckedOptions):
    """What is trained, and where the runs are kept."""

    recipes: tuple[str, ...] = ("demo",)
    """Names of recipes; `all` for each of them."""
    libraries: tuple[str, ...] = ("dpjax",)
    """What tunes them: dpjax, jax_privacy and opacus; `all` for each that is installed. Other
    libraries than dpjax tune heads alone."""
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
        for name in self.libraries:
            check_choice("libraries", name, (*LIBRARIES, "all"))
            if name != "all" and not is_installed(name):
                raise ValueError(
                    f"libraries has {name}, which is not installed: pip install {name}, or leave "
                    "it out"
                )
        check_at_least("num_keys", self.num_keys, 1)

    def chosen(self) -> list[Recipe]:
        """Returns the recipes, each once, in the order of the table."""
        wanted = RECIPES if "all" in self.recipes else self.recipes
        return [recipe for name, recipe in RECIPES.items() if name in wanted]

    def chosen_libraries(self) -> list[str]:
        """Returns the libraries that are wanted and installed, each once."""
        wanted = LIBRARIES if "all" in self.libraries else self.libraries
        return [name for name in LIBRARIES if name in wanted and is_installed(name)]


def cases(options: Options, folder: Path) -> list[Case]:
    """Returns what is to be run, in a folder; those without privacy last."""
    made = []
    length = "" if options.num_steps is None else f"-{options.num_steps}-steps"
    for recipe in options.chosen():
        for library in options.chosen_libraries():
            by = "" if library == "dpjax" else f"-by-{library}"
            for epsilon in (*options.epsilons, None):
                target = "none" if epsilon is None else f"{epsilon:g}"
                parent = folder / (recipe.name + length + by) / f"epsilon-{target}"
                folders = tuple(parent / f"key-{key + 1}" for key in range(options.num_keys))
                made.append(Case(recipe, library, epsilon, folders))
    return made


def measure(options: Options, folder: Path, console: Console) -> list[dict[str, Any]]:
    """Runs what has not been run yet in a folder; returns a row for each case."""
    rows = []
    of_recipes: dict[str, RecipeData] = {}
    for case in cases(options, folder):
        name = case.recipe.name
        if name not in of_recipes:
            console.print(f"{name}: {case.recipe.about}", highlight=False)
            given = case.recipe.write_data(folder / "data" / name, options.data)
            of_recipes[name] = RecipeData(
                case.recipe, given, folder / name, options.num_steps, console
            )
            of_recipes[name].check(options.chosen_libraries())
        data = of_recipes[name]
        if case.library in data.left_out:
            continue
        try:
            rows.append(_row(case, [run_once(case, data, own) for own in case.folders]))
        except NotComparable as reason:
            data.leave_out(case.library, str(reason))
    return _with_ratios(rows)


def _row(case: Case, found: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "recipe": case.recipe.name,
        "library": case.library,
        "run": case.name,
        "epsilon": None if case.epsilon is None else max(run["epsilon"] for run in found),
        # Files of runs before other libraries were compared lack it.
        "noise_multiplier": found[0].get("noise_multiplier"),
        "seconds": statistics.median(run["seconds"] for run in found),
    }
    for name in found[0]["numbers"]:
        values = [run["numbers"][name] for run in found]
        spread = statistics.stdev(values) if len(values) > 1 else None
        row[name] = {"mean": statistics.mean(values), "deviation": spread, "values": values}
    return row


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Puts beside each mean what it is of the same recipe's by the same library without privacy."""
    best = {(row["recipe"], row["library"]): row for row in rows if row["epsilon"] is None}
    for row in rows:
        other = best[row["recipe"], row["library"]]
        for name in [name for name, value in row.items() if isinstance(value, dict)]:
            row[f"{name}_ratio"] = row[name]["mean"] / other[name]["mean"]
    return rows


def _table(rows: list[dict[str, Any]]) -> Table:
    names = ("recipe", "library", "run", "ε", "σ", "measure", "mean", "dev.", "/ no privacy", "s")
    table = Table(*names)
    for row in rows:
        spent = "unbounded" if row["epsilon"] is None else f"{row['epsilon']:.3f}"
        noise = "" if row["noise_multiplier"] is None else f"{row['noise_multiplier']:.3f}"
        for name in [name for name, value in row.items() if isinstance(value, dict)]:
            spread = row[name]["deviation"]
            table.add_row(
                row["recipe"],
                row["library"],
                row["run"],
                spent,
                noise,
                name,
                f"{row[name]['mean']:.3f}",
                "" if spread is None else f"{spread:.3f}",
                f"{row[f'{name}_ratio']:.3f}",
                f"{row['seconds']:.0f}",
            )
    return table


def main(options: Options) -> int:
    """Trains, prints a table, writes the JSON file and the picture; returns the exit status."""
    console = Console()
    for library in LIBRARIES if "all" in options.libraries else ():
        if not is_installed(library):
            console.print(f"{library} is not installed, and left out", highlight=False)
    try:
        if options.folder is None:
            with tempfile.TemporaryDirectory() as folder:
                rows = measure(options, Path(folder), console)
        else:
            rows = measure(options, options.folder, console)
    except RunInterrupted:
        kept = "nothing is kept: give --folder to go on another time"
        if options.folder is not None:
            kept = "the same command goes on from there"
        console.print(f"stopped; {kept}", highlight=False)
        return INTERRUPTED
    if not rows:
        console.print("nothing was run", highlight=False)
        return 2
    # In the width of a pipe names would be cut.
    Console(width=max(console.width, 120)).print(_table(rows))
    measures = {name for row in rows for name in row if name.endswith("_ratio")}
    write_results(
        options.output,
        options,
        rows,
        keys=("recipe", "library", "run"),
        ratios=tuple(sorted(measures)),
        title="What is left at which ε, by what there is without privacy",
    )
    return 0
