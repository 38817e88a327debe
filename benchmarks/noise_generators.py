"""What a draw of Gaussian noise costs with each generator, and a draw of discrete noise.

    python -m benchmarks noise_generators

One array of noise as a step draws it, by Threefry, ChaCha20 and XLA's own generator (`rbg`, which
is no option: it is not a pure function of its key on every device). The programs take turns; a
number is the median of the ratios to the turn of Threefry beside it. Times are those that
processors worked for this process, which other work on the machine disturbs less than the clock.
Discrete noise is drawn on the host, number after number, by the default grid.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.results_file import write_results
from dpjax import RunKey
from dpjax.basics.option_checks import check_at_least
from dpjax.privatize import StepNoise, gaussian_noise
from dpjax.privatize.randomness.discrete.noise import Grid

_GENERATORS = ("threefry", "chacha20", "rbg")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    num_parameters: int = 10_000_000
    num_turns: int = 5
    num_discrete: int = 1000
    """How many numbers of discrete noise are drawn."""
    output: Path = Path("benchmarks/results/noise_generators.json")

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        check_at_least("num_parameters", self.num_parameters, 1)
        check_at_least("num_turns", self.num_turns, 1)
        check_at_least("num_discrete", self.num_discrete, 1)


def measure(options: Options) -> Iterator[dict[str, Any]]:
    """Yields a row for each generator: seconds, ratio, and temporary memory of its program."""
    draws = {name: _compile(name, options.num_parameters) for name in _GENERATORS}
    seconds: dict[str, list[float]] = {name: [] for name in _GENERATORS}
    for _ in range(options.num_turns):
        for name, (draw, _) in draws.items():
            seconds[name].append(_worked(draw))
    for name, (_, memory) in draws.items():
        pairs = zip(seconds[name], seconds["threefry"], strict=True)
        yield {
            "generator": name,
            "seconds": statistics.median(seconds[name]),
            "ratio": statistics.median(mine / threefry for mine, threefry in pairs),
            "temporary_bytes": memory,
        }


def _compile(name: str, size: int) -> tuple[Callable[[], Any], int]:
    """Returns the compiled draw, warmed up, and its temporary memory in bytes."""
    if name == "rbg":
        words = np.arange(16, dtype=np.uint32).reshape(4, 4)
        keys = jax.random.wrap_key_data(jnp.asarray(words), impl="rbg")
    else:
        keys = RunKey.from_os_entropy(generator=name).noise_keys(0)  # type: ignore[arg-type]
    program = jax.jit(lambda keys: gaussian_noise(keys, jnp.zeros(size), 1.0))
    compiled = program.lower(keys).compile()
    memory = compiled.memory_analysis()
    assert memory is not None

    def draw() -> Any:
        return compiled(keys).block_until_ready()

    draw()
    return draw, int(memory.temp_size_in_bytes)


def measure_discrete(options: Options) -> dict[str, Any]:
    """Returns a row: seconds for each number of discrete noise."""
    grid = Grid.for_noise([StepNoise(noise_multiplier=1.0, batch_size=1024)])
    blocks = RunKey.from_os_entropy().noise_blocks(step=0)
    seconds = _worked(lambda: grid.draw(1.0, blocks, options.num_discrete))
    return {"generator": "discrete", "seconds_each": seconds / options.num_discrete}


def _worked(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main(options: Options) -> None:
    """Measures, prints a table and writes the file."""
    rows, discrete = list(measure(options)), measure_discrete(options)
    table = Table("generator", "processor time", "ratio to threefry", "temporary memory")
    for row in rows:
        table.add_row(
            row["generator"],
            f"{row['seconds']:.3f} s",
            f"{row['ratio']:.2f}",
            f"{row['temporary_bytes'] / 1e6:.0f} MB",
        )
    console = Console()
    console.print(table)
    console.print(f"discrete noise: {discrete['seconds_each'] * 1e6:.0f} µs for each number")
    write_results(options.output, options, list(itertools.chain(rows, [discrete])))
