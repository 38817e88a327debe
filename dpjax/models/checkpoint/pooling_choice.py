"""Which pooling a checkpoint was made with."""

from __future__ import annotations

from pathlib import Path

from dpjax.models.checkpoint.files import POOLING_CONFIG, read_json_object


def resolve_pooling(folder: Path, pooling: str) -> str:
    """Returns "first" or "mean"; "auto" is what the checkpoint's sentence-transformers file says.

    Raises:
        ValueError: `pooling` is not one of auto, first, mean, or that file is damaged.

    Example:
        >>> from dpjax.demo.checkpoint import find_minilm
        >>> resolve_pooling(find_minilm(), "auto")
        'mean'
    """
    if pooling not in ("auto", "first", "mean"):
        raise ValueError(f"pooling must be auto, first or mean, got {pooling!r}")
    path = folder / POOLING_CONFIG
    if pooling != "auto" or not path.is_file():
        return "first" if pooling == "auto" else pooling
    is_mean = read_json_object(path).get("pooling_mode_mean_tokens", False)
    if not isinstance(is_mean, bool):
        raise ValueError(f"{path}: pooling_mode_mean_tokens must be true or false, got {is_mean!r}")
    return "mean" if is_mean else "first"
