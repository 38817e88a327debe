"""Memory of forward-only training beside inference, and which accuracy it reaches at which ε.

    python -m benchmarks zeroth_order
    python -m benchmarks zeroth_order --recipes sst2-head-zeroth-order --data data

Programs are compiled for a random model of the given size and not run: the losses of a microbatch
(inference), the sums of a zeroth-order gradient, and those of clipped gradients. Memory is that of
all arguments and of all that a program holds beside them, with buffers that are taken over counted
once. Of the recipes, each run has a key of its own. Writes a JSON file.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from dpjax_accounting import DPSGD
from rich.console import Console
from rich.table import Table

from benchmarks import clipping
from benchmarks.recipes import Recipe
from benchmarks.recipes.sst2 import SST2_HEAD_ZEROTH_ORDER
from benchmarks.results_file import write_results
from benchmarks.support.decoder import DecoderSize
from dpjax import RunKey, private_gradient, private_zeroth_order_gradient
from dpjax.basics.option_checks import CheckedOptions, check_at_least, check_choice
from dpjax.finetuning import execute, set_up

RECIPES: dict[str, Recipe] = {SST2_HEAD_ZEROTH_ORDER.name: SST2_HEAD_ZEROTH_ORDER}
# No step is run: the numbers have no say in the programs.
_MECHANISM = DPSGD(num_units=1000, expected_batch_size=16, noise_multiplier=1.0, num_steps=1)
_DEFAULT_SIZE = DecoderSize(
    num_layers=4, hidden_size=256, vocab_size=8192, head_size=64, batch_size=16, length=128
)


@dataclasses.dataclass(frozen=True)
class Options(CheckedOptions):
    """What is measured."""

    size: DecoderSize = _DEFAULT_SIZE
    """Of the models, and of the microbatch."""
    num_directions: int = 1
    """Of the zeroth-order gradient whose memory is measured."""
    recipes: tuple[str, ...] = ()
    """Names of recipes to run; `all` for each of them."""
    epsilons: tuple[float, ...] = (8.0,)
    """Targets."""
    num_keys: int = 1
    """Runs of each recipe at each ε."""
    data: Path | None = None
    """The folder with the folders of data sets that recipes read; default: data."""
    output: Path = Path("benchmarks/results/zeroth_order.json")

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        for name in self.recipes:
            check_choice("recipes", name, (*RECIPES, "all"))
        check_at_least("num_directions", self.num_directions, 1)
        check_at_least("num_keys", self.num_keys, 1)


def measure_memory(options: Options) -> Iterator[dict[str, Any]]:
    """Yields a row for each model and tuning: bytes of the programs, and their ratios."""
    for model, tuning in (("decoder", "full"), ("encoder", "full"), ("encoder", "lora")):
        problem = clipping.build(
            clipping.Options(model=model, tuning=tuning, size=options.size)  # type: ignore[arg-type]
        )
        rows = problem.batch, jnp.ones(options.size.batch_size, bool)
        of_parts = problem.loss

        def loss(params: Any, example: Any, frozen: Any, of_parts: Any = of_parts) -> jax.Array:
            value: jax.Array = of_parts(params, frozen, example)
            return value

        common: dict[str, Any] = {
            "mechanism": _MECHANISM,
            "run_key": RunKey.from_os_entropy(),
            "clip_norm": 1.0,
        }
        zeroth = private_zeroth_order_gradient(
            loss, num_directions=options.num_directions, **common
        )
        backward = private_gradient(loss, **common)
        inference = jax.jit(jax.vmap(loss, in_axes=(None, 0, None)))
        bytes_of = {
            "inference": _peak(inference.lower(problem.params, rows[0], problem.frozen)),
            "zeroth_order": _peak(zeroth.lower_add_in_place(problem.params, *rows, problem.frozen)),
            "backward": _peak(backward.lower_add(problem.params, *rows, problem.frozen)),
        }
        yield {
            "model": model,
            "tuning": tuning,
            **{f"{name}_bytes": number for name, number in bytes_of.items()},
            "zeroth_order_ratio": bytes_of["zeroth_order"] / bytes_of["inference"],
            "backward_ratio": bytes_of["backward"] / bytes_of["inference"],
        }


def _peak(lowered: jax.stages.Lowered) -> int:
    memory = lowered.compile().memory_analysis()
    assert memory is not None
    new_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(memory.argument_size_in_bytes + memory.temp_size_in_bytes + new_outputs)


def measure_accuracy(options: Options) -> Iterator[dict[str, Any]]:
    """Yields a row for each run of a recipe."""
    wanted = RECIPES if "all" in options.recipes else options.recipes
    for recipe in (RECIPES[name] for name in wanted):
        for epsilon in options.epsilons:
            for key in range(options.num_keys):
                with tempfile.TemporaryDirectory() as folder:
                    data = recipe.write_data(Path(folder) / "data", options.data)
                    config = recipe.config(data, Path(folder) / "run", epsilon)
                    start = time.monotonic()
                    result = execute(set_up(config))
                yield {
                    "recipe": recipe.name,
                    "key": key,
                    "epsilon": result.epsilon,
                    **recipe.measure(result),
                    "seconds": time.monotonic() - start,
                }


def main(options: Options) -> None:
    """Measures, prints two tables and writes the file."""
    memory, accuracy = list(measure_memory(options)), list(measure_accuracy(options))
    console = Console()
    table = Table("model", "tuning", "inference", "zeroth-order", "ratio", "backward", "ratio")
    for row in memory:
        megabytes = {
            name: f"{row[f'{name}_bytes'] / 1e6:.1f} MB"
            for name in ("inference", "zeroth_order", "backward")
        }
        table.add_row(
            row["model"],
            row["tuning"],
            megabytes["inference"],
            megabytes["zeroth_order"],
            f"{row['zeroth_order_ratio']:.2f}",
            megabytes["backward"],
            f"{row['backward_ratio']:.2f}",
        )
    console.print(table)
    if accuracy:
        runs = Table("recipe", "ε", "accuracy", "seconds")
        for row in accuracy:
            runs.add_row(
                row["recipe"],
                f"{row['epsilon']:.2f}",
                f"{row['accuracy']:.3f}",
                f"{row['seconds']:.0f}",
            )
        console.print(runs)
    write_results(options.output, options, memory + accuracy)
