"""Checkpoint folders: finding one, and reading its JSON files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

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
# A model_type of our own: a classifier that reads features of several layers.
FEATURES_TYPE = "dpjax_features"
FEATURES_BODY = "dpjax_features_of"
FEATURE_LAYERS = "dpjax_feature_layers"
GENERATION_CONFIG = "generation_config.json"
ADAPTER_CONFIG = "adapter_config.json"
# What finetune calls the folder of the tuned model in the folder of a run.
_MODEL_OF_RUN = "model"
_LFS_POINTER = b"version https://git-lfs"
_DEEPEST_JSON = 64


def resolve_checkpoint(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a local one, or one fetched from the Hugging Face hub by its id.

    From the hub come only config.json, safetensors and tokenizer files: no pickles, no code.
    `revision_of` tells which commit a folder from the hub is of.

    Args:
        name_or_path: a local folder, or the id of a checkpoint on the hub.
        revision: branch, tag or commit of a hub id; None is the main branch as it is now.

    Raises:
        FileNotFoundError: if the folder does not exist, or the hub lacks the id or revision or is
            unreachable.
        NotADirectoryError: if the path is a file.
        ValueError: if a revision is given of a local folder.

    Example:
        >>> Path("base").mkdir()
        >>> resolve_checkpoint("base").name
        'base'
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
        made = "; `dpjax convert-gguf` makes one of it" if path.suffix == ".gguf" else ""
        raise NotADirectoryError(f"{name} is a file; give the folder that holds {CONFIG}{made}")
    if isinstance(name_or_path, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(
            f"checkpoint folder {name} does not exist; correct the path, or give the id of a "
            "checkpoint on the Hugging Face hub"
        )
    return _download(name, revision)


def revision_of(folder: str | Path) -> str | None:
    """The commit that a folder from the hub is of; None for any other folder.

    Example:
        >>> revision_of("base") is None
        True
    """
    # The cache of huggingface_hub keeps them in .../snapshots/<commit>.
    path = Path(folder)
    is_commit = re.fullmatch("[0-9a-f]{40}", path.name) is not None
    return path.name if is_commit and path.parent.name == "snapshots" else None


def _download(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    patterns = [CONFIG, POOLING_CONFIG, WEIGHTS, "model-*.safetensors", INDEX, *TOKENIZER_FILES]
    patterns.append(GENERATION_CONFIG)
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        what = "it" if revision is None else f"it at revision {revision!r}"
        raise FileNotFoundError(
            f"{hub_id!r} is not a local folder, and fetching {what} from the Hugging Face hub "
            f"failed: {error}"
        ) from error


def read_config_json(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not a JSON object with a model_type.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {CONFIG}: it is not a Hugging Face checkpoint; "
            f"{_in_its_place(folder)}"
        )
    config = read_json_object(path)
    if "model_type" not in config:
        raise ValueError(
            f"{path} names no model_type: it is not a config of transformers; "
            f"{_in_its_place(folder)}"
        )
    if config["model_type"] == FEATURES_TYPE:
        # transformers has no such model, and must not take it for the one that it is made of.
        config["model_type"] = config.get(FEATURES_BODY)
    if not isinstance(config["model_type"], str):
        raise ValueError(
            f"{path}: model_type must be the name of a family, got {config['model_type']!r}"
        )
    return config


def _in_its_place(folder: Path) -> str:
    """What to give in the place of a folder that is no checkpoint, by what it holds."""
    if (folder / _MODEL_OF_RUN / CONFIG).is_file():
        return f"the tuned model of a run is in {folder / _MODEL_OF_RUN}"
    if (folder / ADAPTER_CONFIG).is_file():
        return (
            "it holds an adapter: give the checkpoint that this was trained on "
            f"(base_model_name_or_path in {ADAPTER_CONFIG})"
        )
    for path in sorted(folder.glob("*.gguf")):
        return f"`dpjax convert-gguf` makes one of {path}"
    return "give a folder that save_pretrained of transformers wrote"


def read_json_object(path: Path) -> dict[str, Any]:
    """The contents of a JSON file.

    Raises:
        ValueError: if it is damaged, no object, nested too deeply, or holds a text that no file can
            hold.
    """
    check_fetched(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    if text.startswith("\ufeff"):
        raise ValueError(f"{path} starts with a byte order mark; save it as UTF-8 without one")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply: it is not a file of transformers") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object")
    _check_json(path, value)
    return value


def check_fetched(path: Path) -> None:
    """Raises ValueError for the pointer that Git LFS leaves where a large file is missing."""
    with path.open("rb") as file:
        is_pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
    if is_pointer:
        raise ValueError(
            f"{path} is a Git LFS pointer and not the file itself; run `git lfs pull` in its folder"
        )


def _check_json(path: Path, contents: dict[str, Any]) -> None:
    """Refuses what would fail later: when it is copied, compared or written again."""
    level: list[Any] = [contents]
    for _ in range(_DEEPEST_JSON):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and not is_writable(value):
                raise ValueError(f"{path} holds {value!r}, half a surrogate pair; correct the text")
        level = inner
    if level:
        raise ValueError(
            f"{path} is nested more than {_DEEPEST_JSON} deep: it is not a file of transformers"
        )


def is_writable(text: str) -> bool:
    """Whether a file can hold the text: half a surrogate pair has no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
