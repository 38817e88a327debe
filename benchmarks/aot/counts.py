"""What a program exchanges, reads and multiplies, with loops counted as often as they turn."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from benchmarks.aot.hlo import Instruction, Program, Run

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\](?: device_ids=[^{]*)?.*?\{((?:'[^']*',?)*)\}")
_LISTS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_CHANNEL = re.compile(r"channel_id=(\d+)")
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


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    Attributes:
        kind: such as all-reduce.
        size: bytes of its result on one device, of one time.
        group: devices that take part together.
        times: how often a call of the program runs it.
        in_loop: whether a loop runs it.
    """

    kind: str
    size: int
    group: int
    times: int
    in_loop: bool

    @property
    def sent(self) -> float:
        """Bytes that one device sends in a call, by the ring algorithm of each kind."""
        others = (self.group - 1) / self.group
        factor = {
            "all-reduce": 2 * others,
            "reduce-scatter": others * self.group,
            "collective-permute": 1.0,
        }.get(self.kind, others)
        return self.times * self.size * factor


def collectives_of(program: Program) -> list[Collective]:
    """Lists the exchanges of a program.

    An exchange that runs beside other work is several fused instructions with one channel: it is
    counted once, as often as the rarest of them.
    """
    found: list[Collective] = []
    fused: dict[str, Collective] = {}
    for run in program.runs():
        collective = _collective(run)
        if collective is None or collective.group == 1:
            continue
        channel = _CHANNEL.search(run.instruction.attributes)
        if run.in_fusion and channel:
            known = fused.get(channel[1])
            if known is None or collective.times < known.times:
                fused[channel[1]] = collective
        else:
            found.append(collective)
    return found + list(fused.values())


def summed_by_kind(collectives: Iterable[Collective]) -> dict[str, dict[str, float]]:
    """Adds up exchanges by kind: how many, how many of them in loops, and bytes."""
    sums: dict[str, dict[str, float]] = {}
    for one in collectives:
        of_kind = sums.setdefault(
            one.kind, {"number": 0, "number_in_loops": 0, "bytes": 0, "bytes_sent": 0.0}
        )
        of_kind["number"] += one.times
        of_kind["number_in_loops"] += one.times if one.in_loop else 0
        of_kind["bytes"] += one.times * one.size
        of_kind["bytes_sent"] += one.sent
    return sums


def memory_traffic_of(program: Program) -> int:
    """Counts the bytes that a call moves to and from the chip's large memory.

    Each instruction reads its operands and writes its results once; a fused one that takes slices
    of an operand reads the slices, and one that updates a part writes the part. What the compiler
    keeps in the memory of the vector unit is not counted.
    """
    arrays = {
        name: instruction
        for computation in program.computations.values()
        for name, instruction in computation.items()
    }
    total = 0
    for run in program.runs():
        opcode = run.instruction.opcode
        if run.in_fusion or opcode in _FREE or opcode.endswith("-done"):
            continue
        total += run.times * _traffic(run.instruction, arrays, program)
    return total


def matmul_flops(fn: Callable[..., Any], *args: Any) -> int:
    """Counts the operations of matrix products of a function of shapes, on all devices together.

    Two for each multiplication and addition, those that the backward pass computes again included,
    as the program is written: XLA may leave out some that are the same.

    Example:
        >>> import jax.numpy as jnp
        >>> def fn(x):
        ...     return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=3)[0]
        >>> matmul_flops(fn, jnp.zeros((4, 4)))
        384
    """
    return _flops_of(jax.make_jaxpr(fn)(*args).jaxpr)


def _flops_of(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            inner = math.prod(left[axis] for axis in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * inner
            continue
        inside = [_flops_of(inner) for inner in jaxprs_in_params(equation.params)]
        if equation.primitive.name == "cond":
            total += max(inside, default=0)
        else:
            total += equation.params.get("length", 1) * sum(inside) if inside else 0
    return total


def _collective(run: Run) -> Collective | None:
    opcode = run.instruction.opcode
    kind = opcode.removesuffix("-start")
    if kind not in _KINDS:
        return None
    sizes = [array.size for array in run.instruction.results]
    # What starts an exchange has its operands in front of its results.
    starts = opcode.endswith("-start") and kind != "all-reduce"
    size = max(sizes) if starts else sum(sizes)
    group = 2 if kind == "collective-permute" else _group_size(run.instruction.attributes)
    return Collective(kind, size, group, run.times, run.in_loop)


def _group_size(attributes: str) -> int:
    lists, iota, axes = (form.search(attributes) for form in (_LISTS, _IOTA, _AXES))
    if lists:
        return len(lists[1].split(","))
    if iota:
        return int(iota[1])
    if axes is None:
        raise ValueError(f"no groups of devices are found in {attributes[:120]!r}")
    sizes = dict(part.split("=") for part in axes[1].split(","))
    return math.prod(int(sizes[name]) for name in axes[2].split(",") if name)


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
