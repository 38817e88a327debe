"""One program for a TPU: what it needs, or why its compiler refuses it."""

from __future__ import annotations

import dataclasses
import re
import time

import jax

from benchmarks.aot.counts import Collective, collectives_of
from benchmarks.aot.hlo import Program
from benchmarks.aot.traffic import memory_traffic_of
from dpjax.training import in_words
from dpjax.training.memory.step_memory import workspace_of

# Two ways in which the compiler says it; both in units of 1024.
_TOO_LARGE = (
    re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"),
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A program that does not fit, as the compiler says.

    Attributes:
        needed: bytes on one device; of temporary arrays alone, where these are too large already.
        available: bytes that a program may use.

    Example:
        >>> print(Refusal(60 * 2**30, 16 * 2**30))
        does not fit: the compiler needs 64.4 GB on each device, and 17.2 GB are available
    """

    needed: int
    available: int

    def __str__(self) -> str:
        return (
            f"does not fit: the compiler needs {in_words(self.needed)} on each device, and "
            f"{in_words(self.available)} are available"
        )


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """What a compiled program needs on one device.

    Attributes:
        peak: the most bytes that are in use at once, arguments included.
        allocated: bytes that are set aside for it: more than the peak, where pieces do not fit
            into the gaps that others leave.
        arguments: bytes of the arguments.
        collectives: its exchanges with other devices.
        memory_traffic: bytes to and from memory in a call, by part of the step.
        unknown_loops: loops that are counted once, because their turns are not in the text.
        processor_seconds: of compiling, of all threads.
    """

    peak: int
    allocated: int
    arguments: int
    collectives: list[Collective]
    memory_traffic: dict[str, int]
    unknown_loops: tuple[str, ...]
    processor_seconds: float


def compile_program(lowered: jax.stages.Lowered) -> CompiledProgram | Refusal:
    """Compiles a program, and reads its memory and its text.

    Raises:
        jax.errors.JaxRuntimeError: the compiler fails for another reason than memory.
    """
    start = time.process_time()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = parse_refusal(str(error))
        if refusal is None:
            raise
        return refusal
    seconds = time.process_time() - start
    memory = compiled.memory_analysis()
    program = Program.parse(compiled.as_text())
    return CompiledProgram(
        peak=memory.peak_memory_in_bytes,
        allocated=memory.argument_size_in_bytes + workspace_of(compiled),
        arguments=memory.argument_size_in_bytes,
        collectives=collectives_of(program),
        memory_traffic=memory_traffic_of(program),
        unknown_loops=program.unknown_loops(),
        processor_seconds=seconds,
    )


def parse_refusal(message: str) -> Refusal | None:
    """Reads how much memory is missing; None from an error about something else.

    Example:
        >>> said = "RESOURCE_EXHAUSTED: ... (59.60G) exceeds available HBM (15.75G)."
        >>> parse_refusal(said).available == int(15.75 * 2**30)
        True
    """
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    for form in _TOO_LARGE:
        found = form.search(message)
        if found:
            needed, available = (
                int(float(number) * _UNITS[unit])
                for number, unit in ((found[1], found[2]), (found[3], found[4]))
            )
            return Refusal(needed, available)
    return None
