"""The tensors of a checkpoint, opened but not read."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

from dpjax.models.checkpoint.files import (
    ADAPTER_CONFIG,
    INDEX,
    WEIGHTS,
    check_fetched,
    read_json_object,
)

_log = logging.getLogger(__name__)

# How safetensors spells the dtypes whose weights are read.
_FLOATS: Mapping[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# The usual names of others.
_OTHERS: Mapping[str, str] = {
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
} | {
    f"{kind[0].upper()}{bits}": f"{kind}{bits}"
    for kind in ("int", "uint")
    for bits in (8, 16, 32, 64)
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is not read yet.

    Attributes:
        dtype: as safetensors spells it, such as "F32" or "F8_E4M3".
        read: returns its values.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        """What its values take, of a dtype that is read."""
        return math.prod(self.shape) * _FLOATS[self.dtype].itemsize

    def check(self, name: str, shape: tuple[int, ...], source: str) -> None:
        """Raises ValueError unless it is floating-point and has the shape.

        Args:
            name: of the tensor, for the message.
            shape: what it must have.
            source: subject and verb of the message, such as "config.json implies".
        """
        if self.shape != shape:
            raise ValueError(f"tensor {name} has shape {self.shape}, but {source} {shape}")
        if self.dtype not in _FLOATS:
            raise ValueError(
                f"tensor {name} is {_OTHERS.get(self.dtype, self.dtype)}; only floating-point "
                "weights of 16 to 64 bits are read, quantised checkpoints are not supported"
            )


Tensors = dict[str, Tensor]


def open_tensors(folder: Path) -> Tensors:
    """The weights of a checkpoint, by name.

    Reading one takes its bytes from the file and lets go of the file again.

    Raises:
        FileNotFoundError: without a safetensors file.
        ValueError: if a file is truncated or damaged, or does not hold what the index says.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"{folder} holds an adapter beside the weights ({ADAPTER_CONFIG}), and transformers "
            "would load both; give each its own folder, and load the adapter with load_adapter"
        )
    if (folder / WEIGHTS).is_file():
        if (folder / INDEX).is_file():
            _log.warning("%s holds %s and %s: the first is used", folder, WEIGHTS, INDEX)
        return open_safetensors(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _open_shards(folder)
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise FileNotFoundError(
            f"{folder} holds its weights only as pickles ({', '.join(pickles)}), which can run "
            "code when opened and are not read. Convert them where you trust the file: "
            "transformers.AutoModel.from_pretrained(folder).save_pretrained(new_folder)"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    instead = f", only {', '.join(others)}" if others else ""
    raise FileNotFoundError(
        f"{folder} has no {WEIGHTS} and no {INDEX}{instead}: copy or download the weights as "
        "transformers names them"
    )


def open_safetensors(path: Path) -> Tensors:
    """The tensors of one file, as in `open_tensors`; ValueError if it is truncated or damaged."""
    from safetensors import SafetensorError, safe_open

    check_fetched(path)
    try:
        # Checks the whole header, which is then read for the places of the tensors.
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or damaged ({error}); copy or download it again"
        ) from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensors: Tensors = {}
    for name, entry in header.items():
        shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
        start, stop = 8 + length + start, 8 + length + stop
        read = partial(_read_tensor, path, entry["dtype"], shape, start, stop)
        tensors[name] = Tensor(shape, entry["dtype"], read)
    return tensors


def spelled(dtype: np.dtype) -> str:
    """How safetensors spells a dtype whose weights are read."""
    return next(name for name, known in _FLOATS.items() if known == dtype)


def are_equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same shape, dtype and bits."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    return first.read().tobytes() == second.read().tobytes()


def _read_tensor(
    path: Path, dtype: str, shape: tuple[int, ...], start: int, stop: int
) -> np.ndarray:
    """A copy: pages of a mapped file would count as used memory until the file is closed."""
    stored = np.fromfile(path, np.uint8, stop - start, offset=start)
    return stored.view(_FLOATS[dtype]).reshape(shape) if dtype in _FLOATS else stored


def _open_shards(folder: Path) -> Tensors:
    """The tensors of several files; one that is held twice must be the same."""
    path = folder / INDEX
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{path} has no weight_map: it does not say which file holds which tensor")
    shards = {name: open_safetensors(folder / name) for name in _shard_names(path, weight_map)}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise ValueError(f"{path} says that {shard} holds the tensor {name}, but it does not")
    tensors = {name: shards[shard][name] for name, shard in weight_map.items()}
    for shard, held in shards.items():
        for name, tensor in held.items():
            used = tensors.setdefault(name, tensor)
            if tensor is not used and not are_equal(tensor, used):
                raise ValueError(
                    f"{folder} holds the tensor {name} twice, with other values in {shard} than in "
                    f"{weight_map.get(name, 'another file')}: one of them is stale; download or "
                    "save the checkpoint again"
                )
    return tensors


def _shard_names(path: Path, weight_map: Mapping[str, object]) -> list[str]:
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{path} names {name!r}, which is not a file of the folder")
        if not (path.parent / name).is_file():
            raise FileNotFoundError(
                f"{path} names {name}, which is missing; copy or download it too"
            )
    return sorted(set(weight_map.values()))
