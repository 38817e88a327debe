"""Checkpoint folders: finding one, reading its config.json, opening its tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Readers = dict[str, Callable[[], np.ndarray]]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Where sentence-transformers says how a checkpoint turns token vectors into one.
POOLING_CONFIG = "1_Pooling/config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
# Carried along when a model is saved.
OTHER_FILES = ("generation_config.json",)


def resolve_checkpoint(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a local one, or one fetched from the Hugging Face hub by its id.

    From the hub come only config.json, safetensors and tokenizer files: no pickles, no code.
    `revision_of` tells which commit a folder from the hub is of.

    Args:
        revision: branch, tag or commit of a hub id; None is the main branch as it is now.

    Raises:
        FileNotFoundError: if the folder does not exist, or the hub lacks the id or revision or is
            unreachable.
        NotADirectoryError: if the path is a file.
        ValueError: if a revision is given of a local folder.
    """
    name = str(name_or_path)
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ValueError(
                f"revision {revision!r} is given, but {name} is a local folder, which has none; "
                "leave it out"
            )
        return path
    if path.exists():
        raise NotADirectoryError(f"{name} is a file; give the folder that holds {CONFIG}")
    if isinstance(name_or_path, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"checkpoint folder {name} does not exist")
    return _download(name, revision)


def revision_of(folder: str | Path) -> str | None:
    """The commit that a folder from the hub is of; None for any other folder."""
    # The cache of huggingface_hub keeps them in .../snapshots/<commit>.
    path = Path(folder)
    is_commit = re.fullmatch("[0-9a-f]{40}", path.name) is not None
    return path.name if is_commit and path.parent.name == "snapshots" else None


def _download(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    patterns = [CONFIG, POOLING_CONFIG, WEIGHTS, "model-*.safetensors", INDEX, *TOKENIZER_FILES]
    patterns += OTHER_FILES
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise FileNotFoundError(
            f"{hub_id!r} is not a local folder, and fetching it"
            + f" at revision {revision!r}" * (revision is not None)
            + f" from the Hugging Face hub failed: {error}"
        ) from error


def read_config_json(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not a JSON object with a model_type.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}: it is not a Hugging Face checkpoint")
    config = read_json_object(path)
    if "model_type" not in config:
        raise ValueError(f"{path} names no model_type: it is not a config of transformers")
    return config


def read_json_object(path: Path) -> dict[str, Any]:
    """The contents of a JSON file; ValueError if it is damaged or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object")
    return value


def open_tensors(folder: Path) -> Readers:
    """The weights of a checkpoint: `{name: function that reads this tensor}`.

    Each call maps its file anew and lets go of it: pages read would count as used otherwise, and
    loading would take twice the memory of the weights.

    Raises:
        FileNotFoundError: without a safetensors file.
        ValueError: if a file is truncated or damaged.
    """
    tensors: Readers = {}
    for path in _weight_files(folder):
        tensors |= open_safetensors(path)
    return tensors


def open_safetensors(path: Path) -> Readers:
    """The tensors of one file, as in `open_tensors`; ValueError if it is truncated or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: partial(_read_tensor, path, name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or damaged ({error}); copy or download it again"
        ) from error


def _read_tensor(path: Path, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return file.get_tensor(name)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder)
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise FileNotFoundError(
            f"{folder} holds its weights only as pickles ({', '.join(pickles)}), which can run "
            "code when opened and are not read. Convert them where you trust the file: "
            "transformers.AutoModel.from_pretrained(folder).save_pretrained(new_folder)"
        )
    raise FileNotFoundError(f"{folder} has no {WEIGHTS}")


def _shards(folder: Path) -> list[Path]:
    path = folder / INDEX
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{path} has no weight_map: it does not say which file holds which tensor")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{path} names {name!r}, which is not a file of the folder")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{path} names {name}, which is missing")
    return [folder / name for name in names]
