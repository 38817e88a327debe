"""Time and peak memory of loading a sharded checkpoint in bfloat16.

    python -m benchmarks loading

Writes a synthetic Llama checkpoint into a temporary folder, tensor by tensor, and loads it with
`dpjax.models.load_causal_lm` in a fresh process for each kind of layers. Memory is the most that
was resident in that process, mapped pages of files included, beyond what was resident after
imports and with the device started. The files were just written, so that reading them is reading
the page cache. On GPU and TPU the parameters are not in that memory.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.results_file import write_results

_ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured; by default the shape of Llama 3.2 1B with a head of its own."""

    layers: tuple[Literal["unrolled", "scanned"], ...] = ("unrolled", "scanned")
    num_layers: int = 16
    hidden_size: int = 2048
    intermediate_size: int = 8192
    num_heads: int = 32
    num_kv_heads: int = 8
    vocab_size: int = 128256
    shard_megabytes: int = 1000
    """A file is full when its tensors have this many megabytes."""
    folder: Path | None = None
    """Where the temporary folder is made; default: where the system makes them."""
    output: Path = Path("benchmarks/results/loading.json")


def write_checkpoint(folder: Path, options: Options) -> int:
    """Writes config.json, the shards and their index; returns the bytes of all tensors."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": options.vocab_size,
        "hidden_size": options.hidden_size,
        "intermediate_size": options.intermediate_size,
        "num_hidden_layers": options.num_layers,
        "num_attention_heads": options.num_heads,
        "num_key_value_heads": options.num_kv_heads,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    shards = list(_shards(options))
    weight_map = {}
    for number, shapes in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_safetensors(folder / name, shapes)
        weight_map |= dict.fromkeys(shapes, name)
    total = sum(_bytes(shape) for shapes in shards for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _shards(options: Options) -> Iterator[dict[str, tuple[int, ...]]]:
    """Names and shapes of the tensors of each file."""
    shard: dict[str, tuple[int, ...]] = {}
    for name, shape in _shapes(options):
        held = sum(_bytes(other) for other in shard.values())
        if shard and held + _bytes(shape) > options.shard_megabytes * 10**6:
            yield shard
            shard = {}
        shard[name] = shape
    yield shard


def _shapes(options: Options) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = options.hidden_size, options.intermediate_size
    keys = hidden // options.num_heads * options.num_kv_heads
    yield "model.embed_tokens.weight", (options.vocab_size, hidden)
    for layer in range(options.num_layers):
        for name, shape in (
            ("input_layernorm", (hidden,)),
            ("self_attn.q_proj", (hidden, hidden)),
            ("self_attn.k_proj", (keys, hidden)),
            ("self_attn.v_proj", (keys, hidden)),
            ("self_attn.o_proj", (hidden, hidden)),
            ("post_attention_layernorm", (hidden,)),
            ("mlp.gate_proj", (inner, hidden)),
            ("mlp.up_proj", (inner, hidden)),
            ("mlp.down_proj", (hidden, inner)),
        ):
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (options.vocab_size, hidden)


def _bytes(shape: tuple[int, ...]) -> int:
    return 2 * math.prod(shape)


def _write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """One file in the format of safetensors, of which only one block of numbers is ever held."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + _bytes(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = np.random.default_rng(0).normal(0, 0.02, 2**20).astype(ml_dtypes.bfloat16).tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            _write_repeated(file, block, _bytes(shape))


def _write_repeated(file: BinaryIO, block: bytes, size: int) -> None:
    for _ in range(size // len(block)):
        file.write(block)
    file.write(block[: size % len(block)])


def measure(options: Options) -> list[dict[str, Any]]:
    """One row for each kind of layers; the checkpoint is removed afterwards."""
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="dpjax-loading-") as name:
        size = write_checkpoint(Path(name), options)
        shards = len(list(Path(name).glob("*.safetensors")))
        for layers in options.layers:
            command = [sys.executable, "-m", "benchmarks.support.load_once", name, layers]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
            row = json.loads(run.stdout.splitlines()[-1])
            extra = row["bytes_peak"] - row["bytes_before"]
            rows.append(
                {"layers": layers, "checkpoint_bytes": size, "shards": shards}
                | row
                | {"peak_ratio": extra / size}
            )
    return rows


def main(options: Options) -> None:
    """Measures, prints a table, writes the JSON file."""
    rows = measure(options)
    table = Table("layers", "checkpoint GB", "shards", "seconds", "peak GB", "peak / checkpoint")
    for row in rows:
        table.add_row(
            row["layers"],
            f"{row['checkpoint_bytes'] / 1e9:.2f}",
            str(row["shards"]),
            f"{row['seconds']:.1f}",
            f"{(row['bytes_peak'] - row['bytes_before']) / 1e9:.2f}",
            f"{row['peak_ratio']:.2f}",
        )
    Console().print(table)
    recorded = dataclasses.replace(options, folder=None)
    write_results(
        options.output,
        recorded,
        rows,
        keys=("layers",),
        ratios=("peak_ratio",),
        title=f"peak memory / checkpoint of {rows[0]['checkpoint_bytes'] / 1e9:.2f} GB",
    )
