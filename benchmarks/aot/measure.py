"""The steps of one configuration compiled: memory, exchanges and work, and their ratios."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import jax

from benchmarks.aot.compiled import CompiledProgram, Refusal, compile_program
from benchmarks.aot.counts import Collective, matmul_flops, summed_by_kind
from benchmarks.aot.steps import Steps, lower_ordinary, lower_private
from benchmarks.aot.topologies import CHIPS, Chip
from dpjax.training.memory.step_memory import bytes_of

# An exchange of at most so many bytes for each record of the batch is one of numbers per record.
_BYTES_PER_RECORD = 16


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What one step costs on each device.

    Attributes:
        name: ordinary, or the strategy.
        peak: the most bytes in use at once; None where a program is refused.
        allocated: the most bytes that are set aside; None likewise.
        refusal: of the program that does not fit.
        workspace: bytes at the peak beside what is held.
        collectives: of all programs of the step.
        traffic: bytes to and from memory, by part of the step.
        multiplied: operations of matrix products, by part of the step.
        processor_seconds: of compiling.
        unknown_loops: loops that are counted once.
    """

    name: str
    peak: int | None
    allocated: int | None
    refusal: Refusal | None
    workspace: int | None
    collectives: list[Collective]
    traffic: dict[str, int]
    multiplied: dict[str, float]
    processor_seconds: float
    unknown_loops: int

    @property
    def memory_traffic(self) -> int:
        """Bytes to and from memory."""
        return sum(self.traffic.values())

    @property
    def flops(self) -> float:
        """Operations of matrix products."""
        return sum(self.multiplied.values())

    def seconds_on(self, chip: Chip) -> dict[str, float]:
        """The least seconds of each resource of a chip, were it used at its peak all the time."""
        sent = sum(one.sent for one in self.collectives)
        return {
            "matrix_products": self.flops / chip.flops,
            "memory": self.memory_traffic / chip.memory_bandwidth,
            # Half of the links' bandwidth is for what comes in.
            "exchanges": 2 * sent / chip.link_bandwidth,
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers, ready for JSON."""
        return {
            "fits": self.refusal is None,
            "refusal": None if self.refusal is None else str(self.refusal),
            "needed": None if self.refusal is None else self.refusal.needed,
            "available": None if self.refusal is None else self.refusal.available,
            "peak_memory": self.peak,
            "allocated_memory": self.allocated,
            "workspace": self.workspace,
            "matmul_flops": self.flops,
            "matmul_flops_by_part": self.multiplied,
            "memory_traffic": self.memory_traffic,
            "memory_traffic_by_part": self.traffic,
            "collectives": summed_by_kind(self.collectives),
            "compile_processor_seconds": self.processor_seconds,
            "loops_counted_once": self.unknown_loops,
            "roofline_seconds": {chip.name: self.seconds_on(chip) for chip in CHIPS.values()},
        }


def held_by_class(steps: Steps) -> dict[str, int]:
    """Bytes on one device of what is held from step to step, and of the batch."""
    held = {name: bytes_of(tree) for name, tree in steps.shapes.held.items()}
    # Sums are float32, and lie like the parameters, which are float32 too.
    return held | {"sums": held["parameters_trained"]}


def measure_ordinary(steps: Steps, num_devices: int) -> StepCost:
    """Compiles the ordinary step: one program, that holds everything."""
    shapes = steps.shapes
    program = compile_program(lower_ordinary(steps))
    arguments = (shapes.params, shapes.state, shapes.batch, shapes.mask, shapes.frozen)
    flops = matmul_flops(steps.ordinary, *arguments)
    return _cost("ordinary", {"step": program}, {"step": 0}, flops, num_devices)


def measure_private(steps: Steps, strategy: str, num_devices: int) -> StepCost:
    """Compiles the two programs of the private step.

    Beside the arguments of one the device holds those that only the other takes: the optimizer's
    state while gradients are clipped, the frozen parameters during the update.
    """
    shapes, held = steps.shapes, held_by_class(steps)
    programs = {}
    for name, lowered in lower_private(steps, strategy).items():
        programs[name] = compile_program(lowered)
        if isinstance(programs[name], Refusal):
            break
    # Traced without devices, auto would choose for a single one.
    private = steps.private(steps.choice().strategy if strategy == "auto" else strategy)
    total, _ = jax.eval_shape(lambda params: private.begin(params, 0), shapes.params)
    arguments = (total, shapes.params, shapes.batch, shapes.mask, shapes.frozen)
    flops = matmul_flops(private.add, *arguments)
    beside = {"add": held["optimizer"], "update": held["parameters_frozen"]}
    return _cost(strategy, programs, beside, flops, num_devices)


def ratios(ordinary: StepCost, private: list[StepCost]) -> dict[str, dict[str, float | None]]:
    """Returns the costs of each strategy over those of the ordinary step; None where not known."""

    def ratio(own: float | None, other: float | None) -> float | None:
        return own / other if own is not None and other else None

    return {
        "peak_memory": {cost.name: ratio(cost.peak, ordinary.peak) for cost in private},
        "allocated_memory": {
            cost.name: ratio(cost.allocated, ordinary.allocated) for cost in private
        },
        "matmul_flops": {cost.name: ratio(cost.flops, ordinary.flops) for cost in private},
        "memory_traffic": {
            cost.name: ratio(cost.memory_traffic, ordinary.memory_traffic)
            for cost in private
            if cost.refusal is None and ordinary.refusal is None
        },
        "compile_processor_seconds": {
            cost.name: ratio(cost.processor_seconds, ordinary.processor_seconds)
            for cost in private
            if cost.refusal is None and ordinary.refusal is None
        },
    }


def added_exchanges(ordinary: StepCost, private: StepCost, batch_size: int) -> dict[str, Any]:
    """Compares exchanges: those of numbers per record, and by kind the others, which are larger.

    Returns:
        `numbers_per_record`, how many exchanges of at most 16 bytes a record privacy adds; and of
        each kind of larger ones how many, and how many bytes, each has.
    """
    limit = _BYTES_PER_RECORD * batch_size

    def split(cost: StepCost) -> tuple[int, dict[str, dict[str, float]]]:
        small = [one for one in cost.collectives if one.size <= limit]
        large = [one for one in cost.collectives if one.size > limit]
        return sum(one.times for one in small), summed_by_kind(large)

    small, large = split(private)
    small_before, large_before = split(ordinary)
    nothing = {"number": 0, "bytes": 0}
    return {
        "numbers_per_record": small - small_before,
        "larger": {
            kind: {
                "number": [large_before.get(kind, nothing)["number"], large[kind]["number"]]
                if kind in large
                else [large_before[kind]["number"], 0],
                "bytes": [
                    large_before.get(kind, nothing)["bytes"],
                    large.get(kind, nothing)["bytes"],
                ],
            }
            for kind in sorted({*large, *large_before})
        },
    }


def _cost(
    name: str,
    programs: dict[str, CompiledProgram | Refusal],
    beside: dict[str, int],
    flops: dict[str, int],
    num_devices: int,
) -> StepCost:
    compiled = {key: p for key, p in programs.items() if isinstance(p, CompiledProgram)}
    refusal = next((p for p in programs.values() if isinstance(p, Refusal)), None)
    peaks = [program.peak + beside[key] for key, program in compiled.items()]
    allocated = [program.allocated + beside[key] for key, program in compiled.items()]
    return StepCost(
        name=name,
        peak=None if refusal else max(peaks),
        allocated=None if refusal else max(allocated),
        refusal=refusal,
        workspace=None if refusal else max(p.peak - p.arguments for p in compiled.values()),
        collectives=[one for program in compiled.values() for one in program.collectives],
        traffic=dict(sum((Counter(p.memory_traffic) for p in compiled.values()), Counter())),
        multiplied={part: number / num_devices for part, number in flops.items()},
        processor_seconds=sum(program.processor_seconds for program in compiled.values()),
        unknown_loops=sum(len(program.unknown_loops) for program in compiled.values()),
    )
