"""Which versions of JAX write programs that can be taken apart here.

The tests have seen the listed ones. Another version has to pass a self-check once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import jax

from dpjax.privatize.structured.program.jaxpr import UnreadableProgramError

KNOWN_VERSIONS = ((0, 10), (0, 11), (0, 12))
# Says what is wrong, or None.
SelfCheck = Callable[[], str | None]


def check_version(self_check: SelfCheck) -> None:
    """Passes for a version of JAX that the tests have seen, and for one that passes the self-check.

    The check takes a second or two. That it passed is remembered on disk for that version of JAX
    and this source.

    Args:
        self_check: what a version that is not listed has to pass; says what is wrong, or None.

    Raises:
        UnreadableProgramError: the self-check failed; says where.
    """
    version = tuple(int(part) for part in jax.__version__.split(".")[:2])
    if version in KNOWN_VERSIONS:
        return
    failure = _failure(jax.__version__, self_check)
    if failure is not None:
        raise UnreadableProgramError(
            f"JAX {jax.__version__} is new to dpjax, and the self-check failed: {failure}"
        )


@functools.cache
def _failure(version: str, self_check: SelfCheck) -> str | None:
    """What went wrong in the self-check; None if nothing did."""
    mark = _mark(version)
    if mark is not None and mark.exists():
        return None
    failure = _run_apart(self_check)
    if failure is None and mark is not None:
        # A folder that cannot be written to costs the next process a second.
        with contextlib.suppress(OSError):
            mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark.touch()
    return failure


def _run_apart(self_check: SelfCheck) -> str | None:
    """The self-check in a thread of its own.

    The call may come from inside any transformation, mesh or setting of JAX's, all of which belong
    to a thread.
    """
    outcome: list[str | None] = []

    def run() -> None:
        # Whatever happens in there, the strategy that needs no program still works.
        try:
            with jax.default_device(_processor()):
                outcome.append(self_check())
        except Exception as error:
            outcome.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=run, name="dpjax self-check")
    thread.start()
    thread.join()
    return outcome[0]


def _processor() -> jax.Device | None:
    """A CPU, which compiles fastest; None, the default device, where JAX is told to see no CPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _mark(version: str) -> Path | None:
    """The file that says that a version has passed; None where there is no place for it."""
    digest = hashlib.sha256(version.encode())
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        caches = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
        for file in sorted(Path(__file__).parents[2].rglob("*.py")):
            digest.update(file.read_bytes())
    except (OSError, RuntimeError):
        return None
    return caches / "dpjax" / "jax" / f"{version}-{digest.hexdigest()[:16]}.passed"
