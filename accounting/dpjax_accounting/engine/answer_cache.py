"""Answers that took long to compute, kept on disk from one process to the next.

An entry is found by everything that enters the number: the mechanism with all its parameters, the
question, the source of this package and the versions of those beneath it. Whoever can write to the
folder can forge an answer, so that verification neither reads nor writes it.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

VARIABLE = "DPJAX_ACCOUNTING_CACHE"
_OFF = "off"
_PACKAGES = ("dpjax", "numpy", "scipy", "dp-accounting", "PLD_accounting", "numba")
# In seconds. What is quicker is not worth a file.
_WORTH_KEEPING = 0.01
# Together they bound the folder's size, by 64 MiB.
_MOST_ENTRIES = 4096
_MOST_CHARACTERS = 2**14

# The folder of the whole package, not of this module: every file in it enters the numbers.
_PACKAGE = Path(__file__).parents[1]


class Described(Protocol):
    """A mechanism, as far as answers about it are kept: everything it consists of, JSON-ready."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the description."""


_afresh = contextvars.ContextVar("afresh", default=False)


@contextlib.contextmanager
def computed_afresh() -> Iterator[None]:
    """Within it every answer is computed: none is read from disk, and none written."""
    token = _afresh.set(True)
    try:
        yield
    finally:
        _afresh.reset(token)


def remembered(
    mechanism: Described, question: str, argument: float, compute: Callable[[float], float]
) -> float:
    """Returns `compute(argument)`, from disk if it was computed before by the same code.

    Args:
        mechanism: what is asked about.
        question: what is asked, such as "epsilon".
        argument: at which δ or ε.
        compute: answers, and raises where `argument` is not valid.

    Raises:
        Exception: whatever `compute` raises; never for the sake of the cache.
    """
    folder = _folder()
    # What is no float may be refused, which `compute` does.
    known_type = isinstance(argument, float)
    if folder is None or _afresh.get() or not known_type or not _is_ours(mechanism):
        return compute(argument)
    key = _key(mechanism, question, argument)
    path = folder / f"dpjax-{_sha256(key)}.answer"
    known = _read(path, key)
    if known is not None:
        return known
    start = time.perf_counter()
    answer = compute(argument)
    if time.perf_counter() - start >= _WORTH_KEEPING:
        _write(path, _entry(key, answer))
    return answer


def _folder() -> Path | None:
    """Where the entries are; None if they are switched off or there is no place for them."""
    stated = os.environ.get(VARIABLE)
    if stated == _OFF or _ENGINE is None:
        return None
    if stated:
        return Path(stated)
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The XDG specification: relative paths are to be ignored.
        caches = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return caches / "dpjax" / "accounting"


def _is_ours(value: Any) -> bool:
    """Whether all code that a mechanism consists of is in the hash of this package's source."""
    if isinstance(value, tuple):
        return all(map(_is_ours, value))
    if not dataclasses.is_dataclass(value):
        return True
    fields = (getattr(value, field.name) for field in dataclasses.fields(value))
    return type(value).__module__.startswith("dpjax_accounting.") and all(map(_is_ours, fields))


def _key(mechanism: Described, question: str, argument: float) -> str:
    asked = {"mechanism": mechanism.to_dict(), "question": question}
    return json.dumps(asked | {"argument": argument.hex()} | _versions(), sort_keys=True)


@functools.cache
def _versions() -> dict[str, str | None]:
    """Everything beneath the mechanism that enters a number."""
    versions: dict[str, str | None] = {"engine": _ENGINE}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions | {"python": platform.python_version(), "machine": platform.machine()}


def _hash_of_source() -> str | None:
    """Returns the hash of this package's source files; None where they cannot be read."""
    digest = hashlib.sha256()
    try:
        files = sorted(_PACKAGE.rglob("*.py"))
        for file in files:
            name = file.relative_to(_PACKAGE).as_posix()
            digest.update(f"{name}\n{_sha256(file.read_bytes())}\n".encode())
    except OSError:
        return None
    return digest.hexdigest() if files else None


def _sha256(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def _entry(key: str, answer: float) -> str:
    body = f"{key}\n{answer.hex()}\n"
    return f"{body}{_sha256(body)}\n"


def _read(path: Path, key: str) -> float | None:
    """Returns the answer in a file that is exactly what would be written for it, else None."""
    try:
        text = path.read_text(encoding="utf-8")
        answer = float.fromhex(text.split("\n")[1])
    except (OSError, ValueError, IndexError, OverflowError):
        return None
    return answer if text == _entry(key, answer) else None


def _write(path: Path, entry: str) -> None:
    """Puts an entry in place whole, or not at all; where that is not possible, does nothing."""
    if len(entry) > _MOST_CHARACTERS:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not synced: what a crash leaves of it does not pass the checksum.
        descriptor, partial = tempfile.mkstemp(".partial", path.name, path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(entry)
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
        _drop_oldest(path.parent)


def _drop_oldest(folder: Path) -> None:
    """Deletes the older half of the entries if there are too many, and nothing else."""
    names = [entry.name for entry in os.scandir(folder) if entry.name.startswith("dpjax-")]
    if len(names) <= _MOST_ENTRIES:
        return
    by_age = sorted((folder / name for name in names), key=_written)
    for path in by_age[: len(by_age) // 2]:
        path.unlink(missing_ok=True)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        # Another process has deleted it.
        return 0.0


# When the package is imported, so that it is that of the code which computes.
_ENGINE = _hash_of_source()
