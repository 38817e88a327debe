"""A compiled program as its text: what it runs, and how often.

The compiler's own counts see the body of a loop once. Here each computation is counted as often as
the loops around it turn.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "f16": 2,
    "bf16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_START = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)\}?")
_CONDITION = re.compile(r"condition=%([\w.\-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
# They apply a function of two numbers to each entry, which is not run as a computation.
_APPLY = ("all-reduce", "all-reduce-start", "reduce", "reduce-scatter", "reduce-window", "scatter")
# In a layout: a memory other than the chip's large one, such as that of the vector unit.
_ELSEWHERE = re.compile(r"S\([1-9]")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of a program.

    Attributes:
        size: in bytes.
        in_memory: whether it lies in the chip's large memory.
    """

    size: int
    in_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
        name: unique in the program.
        opcode: such as all-reduce.
        results: its arrays; several of a tuple.
        operands: names.
        attributes: what follows the operands.
        is_root: whether its computation returns it.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that it runs."""
        if self.opcode in _APPLY:
            return ()
        lists = _CALLED.findall(self.attributes)
        return tuple(name for names in lists for name in _OPERAND.findall(names))

    @property
    def op_name(self) -> str:
        """The operation of JAX that it comes from, with the names of its scopes; may be empty."""
        found = _OP_NAME.search(self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Run:
    """An instruction as it is run.

    Attributes:
        instruction: what is run.
        computation: the name of the one that it is a line of.
        times: how often in one call of the program.
        in_loop: whether a loop runs it.
        in_fusion: whether it is a part of a fused instruction.
    """

    instruction: Instruction
    computation: str
    times: int
    in_loop: bool
    in_fusion: bool


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a program, by name; `entry` is the first that runs."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    @classmethod
    def parse(cls, text: str) -> Program:
        """Reads what `jax.stages.Compiled.as_text` returns.

        Raises:
            ValueError: the text has no entry.
        """
        computations: dict[str, dict[str, Instruction]] = {}
        entry, current = None, None
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header:
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
            elif line == "}":
                current = None
            elif current is not None:
                instruction = _parsed(line)
                if instruction is not None:
                    current[instruction.name] = instruction
        if entry is None:
            raise ValueError("the text of a program must have a computation that says ENTRY")
        return cls(computations, entry)

    def runs(self) -> Iterator[Run]:
        """Walks through everything that one call runs, each instruction once, with its number."""
        yield from self._walk(self.entry, 1, False, False)

    def unknown_loops(self) -> tuple[str, ...]:
        """Names the loops of which the number of turns is not in the text: they count once."""
        loops = (run.instruction for run in self.runs() if run.instruction.opcode == "while")
        return tuple(loop.name for loop in loops if self._turns(loop) is None)

    def _walk(self, name: str, times: int, in_loop: bool, in_fusion: bool) -> Iterator[Run]:
        for instruction in self.computations[name].values():
            yield Run(instruction, name, times, in_loop, in_fusion)
            is_loop = instruction.opcode == "while"
            turns = (self._turns(instruction) or 1) if is_loop else 1
            for called in instruction.called:
                fused = in_fusion or instruction.opcode == "fusion"
                yield from self._walk(called, times * turns, in_loop or is_loop, fused)

    def _turns(self, loop: Instruction) -> int | None:
        """The bound that a counter from 0 is compared with, where the condition has one."""
        condition = _CONDITION.search(loop.attributes)
        inside = self.computations[condition[1]] if condition else {}
        for instruction in inside.values():
            if instruction.opcode == "compare" and "direction=LT" in instruction.attributes:
                bound = inside.get(instruction.operands[1])
                if bound is not None and bound.opcode == "constant":
                    return int(bound.attributes)
        return None


def _parsed(line: str) -> Instruction | None:
    start = _START.match(line)
    if not start:
        return None
    line = line[start.end() :]
    shape, rest = _split_shape(line)
    opcode = _OPCODE.match(rest)
    if not opcode:
        return None
    inside, attributes = _split_parentheses(rest[opcode.end() - 1 :])
    is_constant = opcode[1] == "constant"
    return Instruction(
        name=start[2],
        opcode=opcode[1],
        results=tuple(_arrays(shape)),
        operands=() if is_constant else tuple(_OPERAND.findall(inside)),
        attributes=inside if is_constant or opcode[1] == "parameter" else attributes,
        is_root=bool(start[1]),
    )


def _split_shape(line: str) -> tuple[str, str]:
    if line.startswith("("):
        inside, rest = _split_parentheses(line)
        return inside, rest
    # A layout holds parentheses and no blanks.
    shape, _, rest = line.partition(" ")
    return shape, rest


def _split_parentheses(text: str) -> tuple[str, str]:
    """What the first pair of parentheses holds, and what follows it."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:place], text[place + 1 :]
    raise ValueError(f"parentheses do not close in {text[:80]!r}")


def _arrays(shape: str) -> Iterator[Array]:
    for kind, sizes, layout in _ARRAY.findall(shape):
        if kind in _BYTES:
            number = math.prod(int(size) for size in sizes.split(",") if size)
            yield Array(_BYTES[kind] * number, not _ELSEWHERE.search(layout))
