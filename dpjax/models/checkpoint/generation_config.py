"""The generation_config.json of a checkpoint: which tokens end a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpjax.models.checkpoint.config_json import read_text_config_json
from dpjax.models.checkpoint.files import GENERATION_CONFIG, read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def read_generation_config(folder: Path) -> dict[str, Any]:
    """The contents of generation_config.json; without one, what transformers puts in its place.

    Raises:
        ValueError: if the file is damaged, or `eos_token_id` is neither a token id nor a list of
            them.
    """
    path = folder / GENERATION_CONFIG
    if path.is_file():
        contents = read_json_object(path)
    else:
        config = read_text_config_json(folder)
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        contents = {name: config[name] for name in names if config.get(name) is not None}
    ids = _listed(contents.get("eos_token_id"))
    if not all(type(token) is int for token in ids):
        raise ValueError(
            f"{path if path.is_file() else folder}: eos_token_id must be a token id or a list of "
            f"them, got {contents['eos_token_id']!r}"
        )
    return contents


def end_token_ids(
    folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[int, ...]:
    """The tokens that end a text: those of generation_config.json, and the tokenizer's.

    A base may have been tuned to end its turns with another token than the one that ends the texts
    of further tuning, which is the tokenizer's. Ids beyond the vocabulary are left out: a model
    never writes them.

    Raises:
        FileNotFoundError: without config.json.
        ValueError: as for `read_generation_config`.

    Example:
        >>> from transformers import GPT2Config, GenerationConfig
        >>> GPT2Config().save_pretrained("base")
        >>> GenerationConfig(eos_token_id=[7, 9]).save_pretrained("base")
        >>> end_token_ids("base")
        (7, 9)
    """
    folder = Path(folder)
    ids = _listed(read_generation_config(folder).get("eos_token_id"))
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    rows = read_text_config_json(folder)["vocab_size"]
    return tuple(dict.fromkeys(token for token in ids if 0 <= token < rows))


def _listed(ids: Any) -> list[Any]:
    if ids is None:
        return []
    return list(ids) if isinstance(ids, list) else [ids]
