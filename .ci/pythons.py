"""Prints the Pythons of this machine that a test environment can be made with, oldest first.

    python3 .ci/pythons.py

Each line has a version and the path of an interpreter. Every python3.N of the PATH and of pyenv's
versions is tried: final releases from 3.11 on that can make environments count, one for each N.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

OLDEST = (3, 11)
_NAME = re.compile(r"python3\.\d+")
# A shim of pyenv may stand for nothing, and a system's Python may lack ensurepip.
_CHECK = (
    "import sys, ensurepip, venv; v = sys.version_info;"
    "print(*v[:3], v.releaselevel, sys.implementation.name)"
)


def find_pythons() -> dict[tuple[int, int, int], Path]:
    """Return the usable interpreters by version, ascending; the first found of each 3.N."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    folders += sorted(pyenv.glob("versions/*/bin"))
    found: dict[tuple[int, int], tuple[tuple[int, int, int], Path]] = {}
    for folder in folders:
        for path in sorted(folder.glob("python3.*")):
            version = _version(path) if _NAME.fullmatch(path.name) else None
            if version is not None and version[:2] >= OLDEST:
                found.setdefault(version[:2], (version, path))
    return dict(sorted(found.values()))


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return the version of an interpreter, None if it cannot be used."""
    try:
        done = subprocess.run([path, "-c", _CHECK], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    if done.returncode != 0 or words[3:] != ["final", "cpython"]:
        return None
    return int(words[0]), int(words[1]), int(words[2])


if __name__ == "__main__":
    for version, path in find_pythons().items():
        print(".".join(map(str, version)), path)
