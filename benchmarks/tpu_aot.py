"""The training step compiled for TPUs that are not there: whether it fits, and what DP adds.

    python -m benchmarks tpu_aot --model gpt2 --topology v6e:2x2 --mesh data=4

Compiles, on any x86-64 Linux machine with the extra `tpu`, the two programs of a step that
`finetune` runs (clip and add up, then noise and Adam) and the ordinary step beside them: for shapes
alone, so that no parameter is allocated. Bytes are those of one device, as the compiler for TPUs
says. Exchanges, memory traffic and matrix products are counted from the programs, loops as often as
they turn; the least seconds divide these by the peaks of each chip, and are no measurement.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Literal

import tyro

from dpjax.basics.option_checks import check_at_least, check_choice

_STRATEGIES = ("auto", "materialize", "one_backward", "two_backwards")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compiled."""

    model: str = "gpt2"
    """gpt2 (124M), gpt2-medium, llama-3.2-1b, llama-3-8b, qwen2.5-7b, or tiny."""
    topology: str = "v5e:2x2"
    """The chips: v5e and v6e have two sizes, v5p has three."""
    mesh: str | None = None
    """As compute.mesh, such as data=4,fsdp=4; default: all devices as data."""
    tuning: Literal["full", "lora"] = "full"
    rank: int = 16
    """Of the adapters, on all linear layers."""
    batch_size: int = 128
    """Records of a step on all devices together, computed at once: its one microbatch."""
    length: int = 256
    """Tokens of a record."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of activations, and of frozen parameters; what is trained is float32."""
    rematerialise: bool = True
    scan_layers: bool = True
    strategies: tuple[str, ...] = ("auto",)
    """auto, materialize, one_backward, two_backwards."""
    vocab_chunk: int | Literal["auto"] | None = "auto"
    """As compute.vocab_chunk, of all steps that are compared; None for all logits at once."""
    json: bool = False
    """Print JSON in place of tables."""
    output: Path | None = None
    """Where to write the same JSON."""

    def __post_init__(self) -> None:
        for name in self.strategies:
            check_choice("strategies", name, _STRATEGIES)
        for name in ("rank", "batch_size", "length"):
            check_at_least(name, getattr(self, name), 1)
        if not isinstance(self.vocab_chunk, str):
            check_at_least("vocab_chunk", self.vocab_chunk, 1)


def measure(options: Options) -> dict[str, Any]:
    """Compiles the steps, and returns what they need, ready for JSON.

    Raises:
        ImportError: libtpu is not installed.
        ValueError: the model, topology or mesh is unknown, or they do not fit each other.
    """
    from benchmarks.aot.topologies import prepare_environment

    prepare_environment()
    # They import JAX, which reads the environment.
    from benchmarks.aot.configuration import make_configured_steps
    from benchmarks.aot.measure import (
        added_exchanges,
        held_by_class,
        measure_ordinary,
        measure_private,
        ratios,
    )

    steps, vocab_chunk, num_devices = make_configured_steps(options)
    ordinary = measure_ordinary(steps, num_devices)
    private = [measure_private(steps, name, num_devices) for name in options.strategies]
    return {
        "chosen": {"vocab_chunk": vocab_chunk, "auto": str(steps.choice())},
        "held": held_by_class(steps),
        "ordinary": ordinary.to_dict(),
        "private": {cost.name: cost.to_dict() for cost in private},
        "ratios": ratios(ordinary, private),
        "exchanges_added": {
            cost.name: added_exchanges(ordinary, cost, options.batch_size)
            for cost in private
            if cost.refusal is None and ordinary.refusal is None
        },
    }


def main(options: Options) -> int:
    """Compiles, prints tables or JSON, and writes the JSON file if there is to be one.

    Returns:
        The exit status: 2 where the options cannot be, or the compiler for TPUs is missing.
    """
    try:
        measured = measure(options)
    except (ImportError, ValueError) as error:
        print(f"tpu_aot: {error}", file=sys.stderr)
        return 2
    from benchmarks.aot.tables import described, print_tables

    result = described(options, measured, device=f"{options.topology}, compiled and not run")
    text = json.dumps(result, indent=2)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")
    if options.json:
        print(text)
    else:
        print_tables(result)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
