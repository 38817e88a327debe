"""Runs of recipes: each is done once, by dpjax or another library, and its numbers are kept."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.recipes.peers import HeadData, make_head_data, tune_head, why_not
from benchmarks.recipes.recipe import Recipe
from dpjax.finetuning import RunDirectory, RunState, execute, set_up


@dataclasses.dataclass(frozen=True)
class Case:
    """Runs that differ in their keys alone.

    Attributes:
        recipe: what is tuned.
        library: what tunes it.
        epsilon: its target; None without privacy.
        folders: one for each run.
    """

    recipe: Recipe
    library: str
    epsilon: float | None
    folders: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The promise in words."""
        return "without privacy" if self.epsilon is None else f"ε = {self.epsilon:g}"


class RecipeData:
    """The records of a recipe, and what all of its runs share.

    Args:
        recipe: what is tuned.
        given: what its `write_data` returned.
        folder: where libraries other than dpjax would write, if they wrote anything.
        num_steps: of each run; None for as many as the recipe has.
        console: shows the progress.

    Attributes:
        changes: of the group `training`, for the runs.
        left_out: libraries that cannot run the recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        given: dict[str, Any],
        folder: Path,
        num_steps: int | None,
        console: Console,
    ) -> None:
        self._recipe, self._folder = recipe, folder
        self.given, self.console = given, console
        self.changes = {} if num_steps is None else {"num_epochs": None, "num_steps": num_steps}
        self.left_out: set[str] = set()
        self._head: HeadData | None = None

    def head(self) -> HeadData:
        """Returns the features of the records, which are computed once."""
        if self._head is None:
            line = f"{self._recipe.name}: dpjax computes the features of all records"
            self.console.print(line, highlight=False)
            self._head = make_head_data(self._recipe, self.given, self._folder, self.changes)
        return self._head

    def check(self, libraries: list[str]) -> None:
        """Leaves out the libraries that cannot run the recipe, before anything is run."""
        any_target = 1.0
        config = self._recipe.config(self.given, self._folder, any_target, **self.changes)
        for library in libraries:
            reason = None if library == "dpjax" else why_not(self._recipe, config, library)
            if reason is not None:
                self.leave_out(library, reason)

    def leave_out(self, library: str, reason: str) -> None:
        """Leaves a library out, and says why in one line."""
        self.left_out.add(library)
        line = f"{self._recipe.name} is not run by {library}: {reason}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def run_once(case: Case, data: RecipeData, folder: Path) -> dict[str, Any]:
    """Returns the numbers of one run: of the finished one, if there is one, else it is run.

    An interrupted run of dpjax goes on. Its seconds are those after the interruption.

    Raises:
        ValueError: the folder holds a finished run, and its numbers are missing.
        NotComparable: the library cannot run the recipe.
    """
    data.console.print(
        f"{case.recipe.name}, {case.library}, {case.name}, {folder.name}", highlight=False
    )
    kept = folder / "numbers.json"
    if kept.is_file():
        numbers: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return numbers
    run = _run_dpjax if case.library == "dpjax" else _run_peer
    numbers = run(case, data, folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(numbers) + "\n", encoding="utf-8")
    return numbers


def _run_dpjax(case: Case, data: RecipeData, folder: Path) -> dict[str, Any]:
    run = folder / "run"
    state = RunDirectory(run).state() if run.exists() else RunState.NEW
    if state is RunState.FINISHED:
        kept = folder / "numbers.json"
        raise ValueError(f"{run} is finished and {kept} is missing: delete {folder}")
    config = case.recipe.config(data.given, run, case.epsilon, **data.changes)
    config = dataclasses.replace(config, resume=run.exists())
    start = time.perf_counter()
    result = execute(set_up(config), data.console)
    mechanism = result.privacy["mechanism"] or {}
    return {
        "epsilon": result.epsilon,
        # The segments of a schedule have one each.
        "noise_multiplier": mechanism.get("noise_multiplier"),
        "seconds": time.perf_counter() - start,
        "numbers": dict(case.recipe.measure(result)),
    }


def _run_peer(case: Case, data: RecipeData, folder: Path) -> dict[str, Any]:
    head_data = data.head()
    config = case.recipe.config(data.given, folder / "run", case.epsilon, **data.changes)
    task = head_data.task(config)
    start = time.perf_counter()
    tuned = tune_head(case.library, task, secrets.randbits(128))
    return {
        "epsilon": tuned.epsilon,
        "noise_multiplier": tuned.noise_multiplier,
        "seconds": time.perf_counter() - start,
        "numbers": {"accuracy": head_data.accuracy(tuned.head)},
    }
