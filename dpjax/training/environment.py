"""What a run is executed by: which commit of dpjax, on which devices."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from dpjax.privatize import NOISE_VERSION

_SECONDS = 10.0
_PACKAGES = ("dpjax", "jax", "jaxlib", "flax", "optax", "numpy")
# Of the CPU; `devices` has it.
_NUMBER_OF_DEVICES = "--xla_force_host_platform_device_count="
_JAX_SETTINGS = (
    "jax_threefry_partitionable",
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
)


@functools.cache
def describe_environment() -> dict[str, Any]:
    """Return the section of the privacy report; it is that of the first call in a process.

    git_commit and uncommitted_changes are None unless dpjax is run from a git checkout of it.
    """
    kinds = [device.device_kind for device in jax.devices()]
    devices = ", ".join(f"{kinds.count(kind)} × {kind}" for kind in sorted(set(kinds)))
    return {**git_state(Path(__file__)), "devices": devices}


def jax_settings() -> dict[str, str]:
    """Returns what of JAX's configuration changes how numbers are drawn, promoted or rounded."""
    settings = {name: str(getattr(jax.config, name)) for name in _JAX_SETTINGS}
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if not flag.startswith(_NUMBER_OF_DEVICES)]
    return settings | {"XLA_FLAGS": " ".join(flags)}


def versions_of_numerics() -> dict[str, Any]:
    """Returns the versions of packages and of the noise, which draws and roundings depend on."""
    return {name: version(name) for name in _PACKAGES} | {"noise": NOISE_VERSION}


def describe_numerics() -> dict[str, Any]:
    """Returns the versions, settings and devices that draws and roundings depend on."""
    return {
        "versions": versions_of_numerics(),
        "jax": jax_settings(),
        "devices": f"{jax.default_backend()}: {describe_environment()['devices']}",
    }


def remark_on_devices(before: str, now: str) -> str | None:
    """Says so where a resumed run is shared out in another way than when it was started.

    Args:
        before: devices and mesh at its start, in words.
        now: those of the resumption.
    """
    if before == now:
        return None
    return (
        f"the run was started on {before} and goes on on {now}: what it comes to is equal up to "
        "rounding only"
    )


def are_same_kinds(before: str, now: str) -> bool:
    """Whether devices, in words, are of the same kinds, whatever their numbers."""
    return re.sub(r"\b\d+ × ", "", before) == re.sub(r"\b\d+ × ", "", now)


def git_state(source: Path) -> dict[str, Any]:
    """Return the commit that `source` is of, and whether its checkout has changes since."""
    # An installed copy may lie in a checkout of something else, such as a project's .venv.
    if _git(source, "ls-files", "--error-unmatch", source.name) is None:
        return {"git_commit": None, "uncommitted_changes": None}
    changes = _git(source, "status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": _git(source, "rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else changes != "",
    }


def _git(source: Path, *arguments: str) -> str | None:
    """What git prints in the folder of `source`; None if it fails or there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(source.parent), *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
