"""The training step compiled for more and more TPU chips: what grows, and what stays.

    python -m benchmarks tpu_scaling

Compiles the steps of `tpu_aot` for several topologies, with as many records for each device. The
last row is on paper: each device runs the program of the largest topology that was compiled, and
sends 2 (n - 1) / n of what it sums with n chips in a ring. It holds where data parallelism is all
there is; that exchanges take longer over more hops is not in it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import tpu_aot
from dpjax.basics.option_checks import check_at_least


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compiled."""

    model: str = "tiny"
    topologies: tuple[str, ...] = ("v5e:4x4", "v5e:8x8", "v5e:16x16")
    records_per_device: int = 8
    length: int = 64
    strategy: str = "two_backwards"
    vocab_chunk: int = 128
    on_paper: int = 4096
    """Chips of the last row."""
    output: Path = Path("benchmarks/results/tpu_aot/scaling.json")

    def __post_init__(self) -> None:
        check_at_least("records_per_device", self.records_per_device, 1)
        check_at_least("on_paper", self.on_paper, 2)


def measure(options: Options) -> list[dict[str, Any]]:
    """Returns a row for each topology, and one on paper.

    Raises:
        ImportError, ValueError: as `tpu_aot.measure`.
    """
    from benchmarks.aot.topologies import parse_topology

    rows = []
    for topology in options.topologies:
        _, number = parse_topology(topology)
        measured = tpu_aot.measure(
            tpu_aot.Options(
                model=options.model,
                topology=topology,
                batch_size=number * options.records_per_device,
                length=options.length,
                strategies=(options.strategy,),
                vocab_chunk=options.vocab_chunk,
            )
        )
        private = measured["private"][options.strategy]
        collectives = private["collectives"].values()
        rows.append(
            {
                "chips": number,
                "compiled": True,
                "records": number * options.records_per_device,
                "peak_memory": private["peak_memory"],
                "ratio": measured["ratios"]["peak_memory"][options.strategy],
                "matmul_flops": private["matmul_flops"],
                "exchanges": sum(kind["number"] for kind in collectives),
                "bytes_summed": sum(kind["bytes"] for kind in collectives),
                "bytes_sent": sum(kind["bytes_sent"] for kind in collectives),
                "ordinary": measured["ordinary"],
            }
        )
    return [*rows, on_paper(rows[-1], options.on_paper)]


def on_paper(row: dict[str, Any], chips: int) -> dict[str, Any]:
    """Returns the row of more chips with the program of those that a row is about.

    Example:
        >>> row = {"chips": 2, "records": 16, "bytes_summed": 100, "bytes_sent": 100}
        >>> on_paper(row, 4)["bytes_sent"]
        150.0
    """
    return row | {
        "chips": chips,
        "compiled": False,
        "records": row["records"] // row["chips"] * chips,
        "bytes_sent": 2 * row["bytes_summed"] * (chips - 1) / chips,
    }


def main(options: Options) -> int:
    """Compiles, prints a table and writes the JSON file; returns the exit status as `tpu_aot`."""
    try:
        rows = measure(options)
    except (ImportError, ValueError) as error:
        print(f"tpu_scaling: {error}", file=sys.stderr)
        return 2
    from benchmarks.aot.tables import described

    table = Table("chips", "records", "peak MB", "ratio", "GFLOP", "exchanges", "sent MB")
    for row in rows:
        table.add_row(
            f"{row['chips']}" if row["compiled"] else f"{row['chips']} (on paper)",
            str(row["records"]),
            f"{row['peak_memory'] / 1e6:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['matmul_flops'] / 1e9:.2f}",
            f"{row['exchanges']:.0f}",
            f"{row['bytes_sent'] / 1e6:.2f}",
        )
    Console(width=100).print(table)
    named = f"{', '.join(options.topologies)}, compiled and not run"
    result = described(options, {"rows": rows}, device=named)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
