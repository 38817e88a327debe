"""What a poisoning audit came to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class PoisonResult:
    """What a poisoning audit came to. It is private, as the records are.

    Attributes:
        output_dir: the folder of the report.
        report: contents of poisoning.json.

    Example:
        >>> PoisonResult(Path("audits/poison"), {"rows": []}).report["rows"]
        []
    """

    output_dir: Path
    report: dict[str, Any]
