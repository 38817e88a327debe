"""The JSON file that every benchmark leaves, and the picture beside it."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.support.pictures import draw_bars

_PACKAGES = ("jax", "jaxlib", "dpjax", "jax-privacy", "jaxdpopt", "torch", "opacus", "opake-dpsgd")


def write_results(
    path: Path,
    options: Any,
    rows: list[dict[str, Any]],
    *,
    keys: Sequence[str] = (),
    ratios: Sequence[str] = (),
    title: str = "",
) -> None:
    """Writes rows with benchmark, devices, date, versions and options, making folders.

    Args:
        path: of the JSON file.
        options: a dataclass of the module of the benchmark.
        rows: what was measured; together, the values of `keys` name a row.
        keys: names of entries of rows.
        ratios: names of the entries that `compare` compares. Where a row has one, it is a number.
            With ratios, a picture of them is written beside the file.
        title: of the picture.
    """
    result = {
        "benchmark": type(options).__module__.rpartition(".")[2],
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()} | _versions(),
        "options": dataclasses.asdict(options) | {"output": None},
        "keys": list(keys),
        "ratios": list(ratios),
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of what was read, the name: where it lay says nothing elsewhere.
    text = json.dumps(result, indent=2, default=lambda value: value.name)
    path.write_text(text + "\n", encoding="utf-8")
    if ratios:
        draw_bars(rows, keys, ratios, title=title, path=path.with_suffix(".png"))


def _versions() -> dict[str, str]:
    """Of the packages that are installed among those that may be measured."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
