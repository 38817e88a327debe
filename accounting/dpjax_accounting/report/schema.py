"""The JSON Schema of privacy reports, which the package ships."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

SCHEMA_VERSION = 5


@functools.cache
def report_schema() -> dict[str, Any]:
    """Returns the JSON Schema that every privacy report fits (privacy-report.schema.json)."""
    file = resources.files("dpjax_accounting.report") / "privacy-report.schema.json"
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema
