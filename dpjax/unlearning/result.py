"""What an unlearning came to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class UnlearningResult:
    """What an unlearning came to.

    Attributes:
        output_dir: the folder. All of it is private.
        adapter: the folder of the adapter that has unlearned; peft opens it.
        over_unlearned: whether the model has forgotten too much, by the rule in the report.
        under_unlearned: whether it has forgotten too little.
        report: contents of unlearning.json.

    Example:
        >>> result = UnlearningResult(
        ...     output_dir=Path("unlearned"),
        ...     adapter=Path("unlearned/adapter"),
        ...     over_unlearned=False,
        ...     under_unlearned=False,
        ...     report={},
        ... )
        >>> result.adapter.name
        'adapter'
    """

    output_dir: Path
    adapter: Path
    over_unlearned: bool
    under_unlearned: bool
    report: dict[str, Any]
