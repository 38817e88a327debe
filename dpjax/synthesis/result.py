"""What a synthesis came to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class SynthesisResult:
    """What a synthesis came to.

    Attributes:
        output_dir: the folder.
        records: the file of the records.
        num_records: how many it has; fewer than asked for, where draws ran out.
        epsilon: ε of the run, which the records have too; None without privacy.
        delta: δ of the run; None without privacy.
        summary: contents of synthesis.json.
        comparison: contents of private_comparison.json; None where nothing was compared. Private.

    Example:
        >>> result = SynthesisResult(
        ...     output_dir=Path("synthetic"),
        ...     records=Path("synthetic/records.jsonl"),
        ...     num_records=5000,
        ...     epsilon=2.99,
        ...     delta=1e-5,
        ...     summary={},
        ...     comparison=None,
        ... )
        >>> result.records.name
        'records.jsonl'
    """

    output_dir: Path
    records: Path
    num_records: int
    epsilon: float | None
    delta: float | None
    summary: dict[str, Any]
    comparison: dict[str, Any] | None
