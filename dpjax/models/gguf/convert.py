"""A GGUF file as a Hugging Face checkpoint folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dpjax_accounting import finish_folder

from dpjax.models.checkpoint.config_json import parse_config
from dpjax.models.checkpoint.files import CONFIG, GENERATION_CONFIG
from dpjax.models.checkpoint.write_tensors import write_tensors
from dpjax.models.gguf.file import open_gguf
from dpjax.models.gguf.llama import llama_tensors, read_llama_config
from dpjax.models.gguf.vocabulary import end_ids, read_tokenizer, special_ids


def convert_gguf(file: str | Path, out: str | Path) -> None:
    """Writes the Llama in a GGUF file as a folder that transformers and `load_causal_lm` open.

    The folder has config.json, generation_config.json, the weights in float32 as safetensors, the
    tokenizer, and the chat template if the file holds one. It appears whole or not at all.

    Args:
        file: a model of the architecture `llama` with a byte-level tokenizer, stored as F32, F16,
            BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 or Q2_K to Q6_K.
        out: the folder to write, which does not exist yet.

    Raises:
        ImportError: if the package gguf is not installed.
        FileExistsError: if `out` exists.
        FileNotFoundError: if the file, or the folder that `out` is to be in, does not exist.
        ValueError: if the file is no GGUF file, truncated or damaged, of another architecture, or
            holds something that is not supported. Nothing is written.

    Example:
        >>> convert_gguf("model.gguf", "lm")
        Traceback (most recent call last):
        ...
        FileNotFoundError: model.gguf does not exist. Give a .gguf file.
    """
    file, out = Path(file), Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists. Give a new folder.")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out.absolute().parent} does not exist. Make this folder first.")
    opened = open_gguf(file)
    config = read_llama_config(opened)
    tensors = llama_tensors(opened, config)
    tokenizer = read_tokenizer(opened, config["vocab_size"])
    ids = {f"{name}_id": id_ for name, id_ in special_ids(opened).items() if name != "unk_token"}
    parse_config(config)
    partial = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.absolute().parent))
    try:
        partial.chmod(0o755)
        tokenizer.save_pretrained(partial)
        write_tensors(partial, tensors)
        _write_json(partial / CONFIG, config | ids)
        ends = end_ids(opened)
        ends = {"eos_token_id": ends[0] if len(ends) == 1 else ends} if ends else {}
        _write_json(partial / GENERATION_CONFIG, ids | ends)
        finish_folder(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_json(path: Path, contents: dict[str, Any]) -> None:
    path.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
