"""The tokenizer of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dpjax.models.checkpoint.config_json import read_config
from dpjax.models.checkpoint.files import FEATURES_TYPE, read_json_object
from dpjax.models.config import TransformerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def load_tokenizer(folder: str | Path, *, needs_padding: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint folder, read with transformers; nothing is downloaded or run.

    Args:
        folder: the checkpoint.
        needs_padding: refuse one without a padding token, as many decoders have, and one whose
            texts end with it, where a decoder that classifies would not find their ends.

    Raises:
        FileNotFoundError: without tokenizer files.
        ValueError: if a file is damaged, the tokenizer has no padding token, or an id beyond the
            rows of the model's embedding.

    Example:
        >>> from transformers import BertConfig, BertTokenizer
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film"]
        >>> tokenizer = BertTokenizer(dict(zip(words, range(8))))
        >>> _ = tokenizer.save_pretrained("base")
        >>> BertConfig().save_pretrained("base")
        >>> load_tokenizer("base").pad_token
        '[PAD]'
    """
    folder = Path(folder)
    if not has_tokenizer(folder):
        raise FileNotFoundError(
            f"{folder} has no tokenizer ({', '.join(_FILES)}); copy the files of the "
            "tokenizer that the model was trained with into it"
        )
    # First: transformers reads config.json too, and checks less.
    config = read_config(folder)
    tokenizer = _read(folder)
    example = _check_ids(folder, tokenizer, config.vocab_size)
    if needs_padding:
        _check_padding(folder, tokenizer, config, example)
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a tokenizer."""
    return any((folder / name).is_file() for name in _FILES)


def _read(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, PreTrainedConfig

    for name in _SETTINGS:
        if (folder / name).is_file():
            read_json_object(folder / name)
    # transformers knows no such type of model, and would warn that the checkpoint may not fit.
    is_own = read_json_object(folder / "config.json").get("model_type") == FEATURES_TYPE
    config = {"config": PreTrainedConfig()} if is_own else {}
    try:
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, use_fast=True, trust_remote_code=False, **config
        )
    except Exception as error:
        # transformers and tokenizers raise errors of many types, some without a word.
        raise ValueError(
            f"the tokenizer in {_culprit(folder)} cannot be read ({type(error).__name__}: "
            f"{error}); copy or download its files again"
        ) from error


def _culprit(folder: Path) -> Path:
    """tokenizer.json if that is damaged, else the folder."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            Tokenizer.from_file(str(path))
        except Exception:
            return path
    return folder


def _check_ids(folder: Path, tokenizer: PreTrainedTokenizerBase, rows: int) -> list[int]:
    """Refuses ids that the model does not know; returns those of a short text."""
    ids = tokenizer.get_vocab()
    # What is put around a text need not be in the vocabulary.
    example = tokenizer("a")["input_ids"]
    largest = max([*ids.values(), *example], default=-1)
    if largest >= rows:
        token = next((token for token, number in ids.items() if number == largest), "a special one")
        raise ValueError(
            f"the largest id of the tokenizer in {folder} is {largest} ({token!r}), but the model "
            f"has only {rows} embeddings, for the ids 0 to {rows - 1}: they do not belong together"
        )
    return example


def _check_padding(
    folder: Path, tokenizer: PreTrainedTokenizerBase, config: TransformerConfig, example: list[int]
) -> None:
    if tokenizer.pad_token is None:
        raise ValueError(f"the tokenizer in {folder} has no padding token; name one in its files")
    if config.causal and example[-1:] == [tokenizer.pad_token_id]:
        raise ValueError(
            f"the tokenizer in {folder} ends every text with {tokenizer.pad_token!r}, which is its "
            "padding token as well: transformers, which takes padding by its id, would not find "
            "where a text ends; name another padding token in its files"
        )
