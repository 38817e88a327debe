"""The tokenizer of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dpjax.models.read_config import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model")


def load_tokenizer(folder: str | Path, *, needs_padding: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint folder, read with transformers; nothing is downloaded or run.

    Args:
        needs_padding: refuse one without a padding token, as many decoders have.

    Raises:
        FileNotFoundError: without tokenizer files.
        ValueError: if the tokenizer has no padding token, or more tokens than the model has rows.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    if not any((folder / name).is_file() for name in _FILES):
        raise FileNotFoundError(
            f"{folder} has no tokenizer ({', '.join(_FILES)}); copy the files of the "
            "tokenizer that the model was trained with into it"
        )
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, use_fast=True, trust_remote_code=False
    )
    if needs_padding and tokenizer.pad_token is None:
        raise ValueError(f"the tokenizer in {folder} has no padding token; name one in its files")
    rows = read_config(folder).vocab_size
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, but the model only {rows} "
            "embeddings: they do not belong together"
        )
    return tokenizer
