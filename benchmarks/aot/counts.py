"""What a program exchanges and multiplies, with loops counted as often as they turn."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from benchmarks.aot.hlo import Instruction, Program, Run
from benchmarks.aot.traffic import part_of
from dpjax.privatize.structured.program.products import dot_size

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\](?: device_ids=[^{]*)?.*?\{((?:'[^']*',?)*)\}")
_LISTS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_CHANNEL = re.compile(r"channel_id=(\d+)")


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
        collective = _collective(run, program)
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


def matmul_flops(fn: Callable[..., Any], *args: Any) -> dict[str, int]:
    """Counts the operations of matrix products of a function of shapes, on all devices together.

    Two for each multiplication and addition, those that the backward pass computes again included,
    as the program is written: XLA may leave out some that are the same.

    Returns:
        Operations of each scope of `PARTS` that has any, and of `model` for all the rest.

    Example:
        >>> import jax.numpy as jnp
        >>> def fn(x):
        ...     return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=3)[0]
        >>> matmul_flops(fn, jnp.zeros((4, 4)))
        {'model': 384}
    """
    return dict(_flops_of(jax.make_jaxpr(fn)(*args).jaxpr, ""))


def _flops_of(jaxpr: Any, around: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        # Names in a loop or a call begin anew.
        name = f"{around}/{equation.source_info.name_stack}"
        if equation.primitive.name == "dot_general":
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total[part_of(name)] += 2 * dot_size(equation.params, left, out)
            continue
        inside = [_flops_of(inner, name) for inner in jaxprs_in_params(equation.params)]
        if equation.primitive.name == "cond":
            inside = [max(inside, key=Counter.total, default=Counter())]
        for part, flops in sum(inside, Counter()).items():
            total[part] += equation.params.get("length", 1) * flops
    return total


def _collective(run: Run, program: Program) -> Collective | None:
    opcode = run.instruction.opcode
    kind = opcode.removesuffix("-start")
    if kind not in _KINDS:
        return None
    sizes = [array.size for array in run.instruction.results]
    # What starts an exchange has its operands in front of its results.
    starts = opcode.endswith("-start") and kind != "all-reduce"
    size = max(sizes) if starts else sum(sizes)
    if kind == "all-reduce" and run.in_fusion:
        parts = _slices_of(run.instruction, program.computations[run.computation])
        # The compiler for TPUs writes it in this way.
        kind, size = ("reduce-scatter", sum(parts)) if parts else (kind, size)
    group = 2 if kind == "collective-permute" else _group_size(run.instruction.attributes)
    return Collective(kind, size, group, run.times, run.in_loop)


def _slices_of(summed: Instruction, computation: dict[str, Instruction]) -> list[int]:
    """Sizes of the slices that are all that is taken of an exchange's results; empty if not so."""
    names = {summed.name}
    parts: list[int] = []
    for inner in computation.values():
        if names.isdisjoint(inner.operands):
            continue
        if inner.opcode == "dynamic-slice":
            parts.append(inner.results[0].size)
        elif inner.opcode in ("get-tuple-element", "bitcast"):
            names.add(inner.name)
        else:
            return []
    return parts if len(parts) == len(summed.results) else []


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
