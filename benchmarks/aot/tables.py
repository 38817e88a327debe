"""The results of `tpu_aot`, with what they are of, as JSON and as tables."""

from __future__ import annotations

import dataclasses
import datetime
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.aot.traffic import PARTS
from dpjax.training import in_words


def described(options: Any, measured: dict[str, Any], *, device: str) -> dict[str, Any]:
    """Returns the results with device, date, versions and options."""
    asked = dataclasses.asdict(options)
    return {
        "device": device,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("jax", "libtpu")},
        "options": {key: asked[key] for key in asked if key not in ("json", "output")},
    } | measured


def print_tables(result: dict[str, Any]) -> None:
    """Prints memory, exchanges, and the least seconds on each chip."""
    console = Console(width=110)
    steps = {"ordinary": result["ordinary"]} | result["private"]
    held = ", ".join(f"{name} {in_words(size)}" for name, size in result["held"].items())
    console.print(f"{result['device']}. On each device: {held}.")
    chunk = result["chosen"]["vocab_chunk"]
    console.print(f"Logits of {'all' if chunk is None else chunk} tokens at once.")
    console.print(result["chosen"]["auto"], highlight=False)
    console.print(_memory(result, steps))
    for name, step in steps.items():
        if step["refusal"]:
            console.print(f"{name} {step['refusal']}.")
    for name, added in result["exchanges_added"].items():
        console.print(_sentence(name, added))
    console.print(_roofline(steps))
    console.print(_parts(steps))


def _memory(result: dict[str, Any], steps: dict[str, Any]) -> Table:
    table = Table("step", "peak", "ratio", "DP adds", "allocated", "ratio", "compiled in")
    ordinary = result["ordinary"]
    for name, step in steps.items():
        ratios = [result["ratios"][key].get(name) for key in ("peak_memory", "allocated_memory")]
        peak_ratio, allocated_ratio = ("" if x is None else f"{x:.2f}" for x in ratios)
        seconds = f"{step['compile_processor_seconds']:.0f} s"
        if step["refusal"]:
            table.add_row(name, "does not fit", "", "", "", "", seconds)
            continue
        added = step["peak_memory"] - ordinary["peak_memory"] if peak_ratio else None
        table.add_row(
            name,
            in_words(step["peak_memory"]),
            peak_ratio,
            "" if added is None else _signed(added),
            in_words(step["allocated_memory"]),
            allocated_ratio,
            seconds,
        )
    return table


def _sentence(name: str, added: dict[str, Any]) -> str:
    larger = "; ".join(
        f"{kind} {pair['number'][0]} → {pair['number'][1]} with {in_words(int(pair['bytes'][0]))} "
        f"→ {in_words(int(pair['bytes'][1]))}"
        for kind, pair in added["larger"].items()
    )
    return (
        f"{name}: DP adds {added['numbers_per_record']} exchanges of numbers per record. "
        f"Larger ones, ordinary → DP: {larger or 'none'}."
    )


def _roofline(steps: dict[str, Any]) -> Table:
    table = Table("least seconds", "step", "matrix products", "memory", "exchanges")
    for name, step in steps.items():
        if step["refusal"]:
            continue
        for chip, seconds in step["roofline_seconds"].items():
            table.add_row(chip, name, *(f"{value:.2e}" for value in seconds.values()))
    return table


def _parts(steps: dict[str, Any]) -> Table:
    columns = [part for part in (*PARTS, "model") if _occurs(part, steps)]
    table = Table("shares of a step", "of", *columns)
    for name, step in steps.items():
        for quantity in ("matmul_flops", "memory_traffic"):
            whole, by_part = step[quantity], step[f"{quantity}_by_part"]
            if whole and not step["refusal"]:
                shares = (f"{by_part.get(part, 0) / whole:.1%}" for part in columns)
                table.add_row(quantity.replace("_", " "), name, *shares)
    return table


def _occurs(part: str, steps: dict[str, Any]) -> bool:
    names = ("matmul_flops_by_part", "memory_traffic_by_part")
    return any(part in step[name] for step in steps.values() for name in names)


def _signed(number: int) -> str:
    return ("+" if number >= 0 else "−") + in_words(abs(number))
