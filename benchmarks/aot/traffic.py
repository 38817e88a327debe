"""What a compiled program moves to and from memory, and which part of the step moves it."""

from __future__ import annotations

import re
from collections import Counter

from benchmarks.aot.hlo import Instruction, Program

# Scopes of the library, the inner one of two first: products of tokens for norms; the other work
# for norms; products of the clipped sums; noise; the optimizer.
PARTS = ("gram", "example_norms", "clipped_sums", "noise", "optimizer")
# They move nothing themselves.
_FREE = frozenset(
    (
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "while",
        "conditional",
        "call",
        "after-all",
        "partition-id",
        "replica-id",
        "iota",
    )
)


def memory_traffic_of(program: Program) -> dict[str, int]:
    """Counts the bytes that a call moves to and from the chip's large memory, by what moves them.

    Each instruction reads its operands and writes its results once; a fused one that takes slices
    of an operand reads the slices, and one that updates a part writes the part. What the compiler
    keeps in the memory of the vector unit is not counted. A fused instruction counts for the
    operation that the compiler names it after.

    Returns:
        Bytes of each scope of `PARTS` that occurs, and of `model` for all the rest.
    """
    arrays = {
        name: instruction
        for computation in program.computations.values()
        for name, instruction in computation.items()
    }
    traffic: Counter[str] = Counter()
    for run in program.runs():
        opcode = run.instruction.opcode
        if run.in_fusion or opcode in _FREE or opcode.endswith("-done"):
            continue
        moved = run.times * _traffic(run.instruction, arrays, program)
        traffic[part_of(run.instruction.op_name)] += moved
    return dict(traffic)


def part_of(name: str) -> str:
    """Returns what an operation is a part of, by the scopes in its name.

    Example:
        >>> part_of("jit(add)/vmap(example_norms/gram)/dot_general")
        'gram'
        >>> part_of("jit(add)/vmap(jvp())/dot_general")
        'model'
    """
    scopes = {*re.split(r"[/()]", name)}
    return next((part for part in PARTS if part in scopes), "model")


def _traffic(instruction: Instruction, arrays: dict[str, Instruction], program: Program) -> int:
    opcode = instruction.opcode
    if opcode.removesuffix("-start") in ("dynamic-slice", "slice", "gather"):
        # What starts a slice has its operands in front of its results, and moves the slice alone.
        part = instruction.results[len(instruction.operands) if opcode.endswith("-start") else 0]
        source = arrays.get(instruction.operands[0])
        is_read = source is None or source.results[0].in_memory
        return part.size * (is_read + part.in_memory)
    fused = program.computations[instruction.called[0]] if opcode == "fusion" else {}
    read = 0
    for place, name in enumerate(instruction.operands):
        operand = arrays.get(name)
        if operand is None or len(operand.results) != 1 or not operand.results[0].in_memory:
            continue
        read += _part_read(place, operand.results[0].size, fused)
    if opcode.endswith("-start"):
        return read + sum(a.size for a in instruction.results[:1] if a.in_memory)
    written = [array.size for array in instruction.results if array.in_memory]
    return read + _part_written(sum(written), fused)


def _part_read(place: int, size: int, fused: dict[str, Instruction]) -> int:
    """What a fused instruction reads of an operand."""
    name = next(
        (
            inner.name
            for inner in fused.values()
            if inner.opcode == "parameter" and inner.attributes == str(place)
        ),
        None,
    )
    users = [inner for inner in fused.values() if name in inner.operands]
    if not users:
        return size
    if all(user.opcode in ("dynamic-slice", "slice", "gather") for user in users):
        return min(size, sum(user.results[0].size for user in users))
    if all(user.opcode == "dynamic-update-slice" and user.operands[0] == name for user in users):
        return 0
    return size


def _part_written(size: int, fused: dict[str, Instruction]) -> int:
    """What a fused instruction writes; of one that updates a part in place, the part."""
    updates = [inner for inner in fused.values() if inner.opcode == "dynamic-update-slice"]
    roots = [inner for inner in fused.values() if inner.is_root]
    if not updates or not roots:
        return size
    parts = [(update, fused.get(update.operands[1])) for update in updates]
    saved = sum(update.results[0].size - part.results[0].size for update, part in parts if part)
    return max(size - saved, 0)
