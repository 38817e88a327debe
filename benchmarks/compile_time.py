"""Time to trace and to compile a clipped-gradient step, as ratios to the ordinary step.

    python -m benchmarks compile_time --num-layers 24

Of a decoder whose layers are unrolled, each with parameters of its own, and of one that scans over
stacked layers. Widths are small by default: what is traced and compiled grows with the number of
operations, not with their sizes. Writes a JSON file. Runs on CPU, GPU or TPU.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.results_file import write_results
from benchmarks.support.decoder import (
    DecoderSize,
    decoder_loss,
    unrolled_decoder_loss,
    unstack_layers,
)
from dpjax.privatize import clipped_grad

PyTree = Any

DEFAULT_SIZE = DecoderSize(
    num_layers=24, hidden_size=32, vocab_size=128, head_size=16, batch_size=4, length=16
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    layers: tuple[Literal["unrolled", "scanned"], ...] = ("unrolled", "scanned")
    size: DecoderSize = DEFAULT_SIZE
    rematerialise: bool = False
    """Keep only the inputs of layers, as in training of large models."""
    strategies: tuple[str, ...] = ("materialize", "one_backward", "two_backwards")
    repeats: int = 1
    """In how many rounds everything is traced and compiled; medians over rounds are reported."""
    output: Path = Path("benchmarks/results/compile_time.json")


def make_steps(options: Options, loss: Callable) -> dict[str, Callable]:
    """The functions compared, all `(params, batch) -> gradients`."""

    def ordinary(params: PyTree, batch: jax.Array) -> PyTree:
        return jax.grad(lambda p: jnp.sum(jax.vmap(loss, (None, 0))(p, batch)))(params)

    def clipped(strategy: str) -> Callable:
        fn = clipped_grad(loss, clip_norm=1.0, strategy=strategy)
        return lambda params, batch: fn(params, batch).grads

    return {"ordinary": ordinary} | {name: clipped(name) for name in options.strategies}


def measure(options: Options) -> list[dict[str, Any]]:
    """One row for each kind of layers and step."""
    stacked, ids = options.size.draw_params(), options.size.draw_ids()
    rows = []
    for layers in options.layers:
        make_loss = unrolled_decoder_loss if layers == "unrolled" else decoder_loss
        loss = make_loss(
            heads=options.size.num_heads,
            rematerialise=options.rematerialise,
            compute_dtype=jnp.float32,
        )
        params = unstack_layers(stacked) if layers == "unrolled" else stacked
        times = _times(make_steps(options, loss), options.repeats, params, ids)
        rows += [
            {"layers": layers, "step": name} | _medians(found, times["ordinary"])
            for name, found in times.items()
        ]
    return rows


def _medians(times: NDArray[np.float64], ordinary: NDArray[np.float64]) -> dict[str, float]:
    """The row of a step: `(R, 2)` seconds of R rounds, beside those of the ordinary step.

    A machine is faster in one minute than in another: a ratio is of two times of one round.
    """
    seconds = np.median(times, axis=0)
    trace, compiling = np.median(times / ordinary, axis=0)
    total = np.median(times.sum(axis=1) / ordinary.sum(axis=1))
    return {
        "trace_seconds": float(seconds[0]),
        "compile_seconds": float(seconds[1]),
        "trace_ratio": float(trace),
        "compile_ratio": float(compiling),
        "total_ratio": float(total),
    }


def _times(
    steps: dict[str, Callable], repeats: int, *arguments: PyTree
) -> dict[str, NDArray[np.float64]]:
    """`(R, 2)` seconds of each step, to trace and to compile; steps take turns in R rounds.

    They are processor seconds of this process: other work on the machine hardly counts. Python
    collects garbage between steps, as in `timeit`.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            jax.clear_caches()
            gc.collect()
            gc.disable()
            try:
                times[name].append(_trace_and_compile(step, *arguments))
            finally:
                gc.enable()
    return {name: np.array(found) for name, found in times.items()}


def _trace_and_compile(step: Callable, *arguments: PyTree) -> tuple[float, float]:
    start = time.process_time()
    lowered = jax.jit(step).lower(*arguments)
    traced = time.process_time()
    lowered.compile()
    return traced - start, time.process_time() - traced


def main(options: Options) -> None:
    """Measures, prints a table, writes the JSON file."""
    rows = measure(options)
    device = jax.devices()[0].device_kind
    table = Table(
        "layers", "step", "trace s", "ratio", "compile s", "ratio", "both", title=f"{device}"
    )
    for row in rows:
        table.add_row(
            row["layers"],
            row["step"],
            f"{row['trace_seconds']:.2f}",
            f"{row['trace_ratio']:.2f}",
            f"{row['compile_seconds']:.2f}",
            f"{row['compile_ratio']:.2f}",
            f"{row['total_ratio']:.2f}",
        )
    Console().print(table)
    write_results(
        options.output,
        options,
        rows,
        keys=("layers", "step"),
        # A trace takes a fraction of a second, and its ratio varies more than the others.
        ratios=("total_ratio", "compile_ratio"),
        title=f"by the ordinary step, {options.size.num_layers} layers, {device}",
    )
