"""Files that are written as a whole, and how to be rid of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dpjax_accounting import write_text

PARTIAL = ".partial"


def partial_of(path: Path) -> Path:
    """Returns the name that a file or folder has while it is being written."""
    return path.with_name(path.name + PARTIAL)


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Writes atomically: the file is the old one or the whole new one, also after a crash.

    Raises:
        OSError: for instance because the disk is full.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", mode=mode)


def steps_on_record(privacy: Path, otherwise: int = 0) -> int:
    """Returns how many steps a privacy.json counts; `otherwise` if there is none that is whole."""
    try:
        return int(json.loads(privacy.read_bytes())["steps_completed"])
    except (OSError, ValueError, KeyError, TypeError):
        return otherwise


def delete(path: Path) -> None:
    """Deletes a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
