"""The JSON file that every benchmark leaves."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import jax


def write_results(path: Path, options: Any, rows: list[dict[str, Any]]) -> None:
    """Writes rows with device, date, version of JAX and options (a dataclass), making folders."""
    result = {
        "device": jax.devices()[0].device_kind,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "jax": jax.__version__,
        "options": dataclasses.asdict(options) | {"output": None},
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of what was read, the name: where it lay says nothing elsewhere.
    text = json.dumps(result, indent=2, default=lambda value: value.name)
    path.write_text(text + "\n")
