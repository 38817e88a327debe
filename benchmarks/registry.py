"""The benchmarks: each is a module here, with a dataclass `Options` and `main(options)`.

The first line of a module's docstring says what it measures.
"""

from __future__ import annotations

import ast
from pathlib import Path

BENCHMARKS = (
    "suite",
    "clipping",
    "finetune",
    "scaling",
    "utility",
    "accounting",
    "audit",
    "compile_time",
    "tpu_aot",
    "tpu_scaling",
    "loading",
    "loop_overhead",
    "federated",
    "federated_utility",
    "poisoning",
    "positive_control",
    "unlearning",
    "reference_attacks",
    "shadows",
    "smollm2_parity",
    "zeroth_order",
    "noise_generators",
    "compare",
)


def describe(name: str) -> str:
    """Returns the line that says what a benchmark measures; its module is not imported.

    Args:
        name: among `BENCHMARKS`.
    """
    path = Path(__file__).with_name(f"{name}.py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text is not None
    return text.splitlines()[0]
