"""A GGUF file, opened but not read: its metadata, and where its tensors are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpjax.models.checkpoint.files import check_fetched

# The blocks that the package gguf turns into numbers and that Llama models are stored in.
SUPPORTED = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
)
_MAGIC = b"GGUF"
_AGAIN = "Download the file again, or another conversion of the model."


@dataclasses.dataclass(frozen=True)
class GgufTensor:
    """A tensor that is not read yet.

    Attributes:
        shape: as in safetensors, the slowest dimension first.
        kind: how llama.cpp names the way it is stored, such as "F16" or "Q4_1".
        read: returns its values in float32.
    """

    shape: tuple[int, ...]
    kind: str
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """What a GGUF file holds, by the names that llama.cpp uses."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    def whole(self, key: str, default: int | None = None) -> int:
        """A positive whole number of the metadata; ValueError for anything else."""
        value = self.metadata.get(key, default)
        if type(value) is not int or value < 1:
            raise ValueError(
                f"{self.path}: {key} must be a positive whole number, got {_shown(value)}. {_AGAIN}"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number of the metadata; ValueError for anything else."""
        value = self.metadata.get(key, default)
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise ValueError(
                f"{self.path}: {key} must be a positive number, got {_shown(value)}. {_AGAIN}"
            )
        return float(value)

    def texts(self, key: str) -> list[str]:
        """A list of texts of the metadata; ValueError for anything else."""
        value = self.metadata.get(key)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise ValueError(
                f"{self.path}: {key} must be a list of texts, got {_shown(value)}. {_AGAIN}"
            )
        return value


def open_gguf(path: Path) -> GgufFile:
    """Opens a file and checks that it is whole and that all of its tensors can be read.

    Raises:
        ImportError: if the package gguf is not installed.
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if it is a folder.
        ValueError: if it is no GGUF file, truncated or damaged, one of several parts, or stored in
            a way that is not supported.
    """
    gguf = _package()
    _check_start(path)
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: _value(field) for name, field in reader.fields.items()}
        stored = list(reader.tensors)
    except Exception as error:
        # The package says nothing of truncated files: it fails wherever the bytes run out.
        raise ValueError(
            f"{path} is truncated or damaged ({type(error).__name__}: {error}). Download it again."
        ) from error
    if reader.byte_order != "I":
        raise ValueError(
            f"{path} must be stored in the byte order of this machine, got the other one. Download "
            "the usual file, which is little-endian."
        )
    if metadata.get("split.count", 1) != 1:
        raise ValueError(
            f"{path} must be a whole model, got one of {metadata['split.count']} parts. Merge them "
            "with `llama-gguf-split --merge`."
        )
    _check_kinds(path, {tensor.tensor_type.name for tensor in stored})
    tensors = {tensor.name: _tensor(tensor) for tensor in stored}
    return GgufFile(path, metadata, tensors)


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ImportError(
            'GGUF files are read by the package gguf. Install it with pip install "dpjax[gguf]".'
        ) from error
    return gguf


def _check_start(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Give the .gguf file in it.")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. Give a .gguf file.")
    check_fetched(path)
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise ValueError(
            f"{path} must be a GGUF file, which starts with {_MAGIC!r}, got one that starts with "
            f"{start!r}. Give the .gguf file of a model."
        )


def _check_kinds(path: Path, kinds: set[str]) -> None:
    unknown = sorted(kinds.difference(SUPPORTED))
    if unknown:
        raise ValueError(
            f"{path} must be stored as {', '.join(SUPPORTED)}, got tensors in "
            f"{', '.join(unknown)}. Download another conversion of the model."
        )


def _value(field: Any) -> Any:
    value = field.contents()
    if isinstance(value, float) and field.parts[-1].dtype == np.float32:
        # The shortest number that float32 rounds to the same: 1e-05 rather than 9.9999997e-06.
        return float(str(np.float32(value)))
    return value


def _tensor(tensor: Any) -> GgufTensor:
    shape = tuple(int(size) for size in reversed(tensor.shape))

    def read() -> np.ndarray:
        import gguf

        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        return np.ascontiguousarray(values, np.float32).reshape(shape)

    return GgufTensor(shape, tensor.tensor_type.name, read)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
