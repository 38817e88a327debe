"""The tokenizer in a GGUF file: byte-level BPE, its special tokens and its chat template."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from dpjax.models.gguf.file import GgufFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerFast

# The types of tokens that are found in a text as they are written, before it is split.
_CONTROL, _USER_DEFINED = 3, 4
_SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
# That of tokenizer.json of Llama 3.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True)
class _Splitting:
    """How texts are split into words, within which tokens are merged.

    Attributes:
        digits: every digit is a word.
        pattern: of words, after that; "" is that of GPT-2.
        whole_words: a word that is a token is not put together from merges.
        opens: a text starts with the opening token unless the file says otherwise.
    """

    digits: bool = False
    pattern: str = ""
    whole_words: bool = False
    opens: bool = False

    def pre_tokenizer(self) -> PreTokenizer:
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

        if self.pattern:
            split = Split(Regex(self.pattern), behavior="isolated")
            return Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
        plain = ByteLevel(add_prefix_space=False)
        return Sequence([Digits(individual_digits=True), plain]) if self.digits else plain


_LLAMA3 = _Splitting(pattern=_LLAMA3_SPLIT, whole_words=True, opens=True)
# By tokenizer.ggml.pre.
_SPLITTINGS = {
    "gpt-2": _Splitting(),
    "smollm": _Splitting(digits=True),
    "starcoder": _Splitting(digits=True),
    "refact": _Splitting(digits=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}


def read_tokenizer(file: GgufFile, rows: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a file.

    Args:
        file: the GGUF file.
        rows: of the embedding; ids are below it.

    Raises:
        ValueError: for a tokenizer that is no byte-level BPE, a way of splitting texts that is not
            known, and for ids, merges or a chat template that do not fit the vocabulary.
    """
    from transformers import PreTrainedTokenizerFast

    splitting = _splitting(file)
    tokens = file.texts("tokenizer.ggml.tokens")
    _check_tokens(file, tokens, rows)
    special = {name: tokens[id_] for name, id_ in special_ids(file).items()}
    settings = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": file.whole("llama.context_length"),
    }
    template = file.metadata.get("tokenizer.chat_template")
    if template is not None:
        if not isinstance(template, str):
            raise ValueError(
                f"{file.path}: tokenizer.chat_template must be a text, got {type(template)}. "
                "Download another conversion of the model."
            )
        settings["chat_template"] = template
    backend = _backend(file, tokens, splitting, special)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, **settings)


def special_ids(file: GgufFile) -> dict[str, int]:
    """The ids of the special tokens that a file names, by their names in transformers.

    Raises:
        ValueError: if one is no id of the vocabulary.
    """
    ids = {name: file.metadata.get(f"tokenizer.ggml.{key}") for name, key in _SPECIAL.items()}
    return {name: _checked_id(file, name, id_) for name, id_ in ids.items() if id_ is not None}


def end_ids(file: GgufFile) -> list[int]:
    """The ids of the tokens that end a text or a turn."""
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    ids = {key: file.metadata.get(f"tokenizer.ggml.{key}") for key in keys}
    found = [_checked_id(file, key, id_) for key, id_ in ids.items() if id_ is not None]
    return list(dict.fromkeys(found))


def _checked_id(file: GgufFile, name: str, id_: Any) -> int:
    num_tokens = len(file.texts("tokenizer.ggml.tokens"))
    if type(id_) is not int or not 0 <= id_ < num_tokens:
        raise ValueError(
            f"{file.path}: the id of {name} must be below {num_tokens}, the number of tokens, got "
            f"{id_!r}. Download another conversion of the model."
        )
    return id_


def _splitting(file: GgufFile) -> _Splitting:
    model = file.metadata.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise ValueError(
            f"{file.path}: tokenizer.ggml.model must be 'gpt2', byte-level BPE, got {model!r}. A "
            "file of another kind does not say all that its tokenizer does: download the "
            "checkpoint of this model in safetensors instead."
        )
    name = file.metadata.get("tokenizer.ggml.pre")
    if name not in _SPLITTINGS:
        raise ValueError(
            f"{file.path}: tokenizer.ggml.pre must be one of {', '.join(_SPLITTINGS)}, got "
            f"{name!r}. How its tokenizer splits a text is not known: download the checkpoint of "
            "this model in safetensors instead."
        )
    return _SPLITTINGS[name]


def _check_tokens(file: GgufFile, tokens: list[str], rows: int) -> None:
    if len(tokens) > rows:
        raise ValueError(
            f"{file.path} must have a row of the embedding for each token, got {len(tokens)} "
            f"tokens and {rows} rows. Download another conversion of the model."
        )
    if len(set(tokens)) != len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise ValueError(
            f"{file.path} must list each token once, got {twice!r} twice. Download another "
            "conversion of the model."
        )
    kinds = file.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise ValueError(
            f"{file.path}: tokenizer.ggml.token_type must have an entry for each of "
            f"{len(tokens)} tokens. Download another conversion of the model."
        )


def _backend(
    file: GgufFile, tokens: list[str], splitting: _Splitting, special: dict[str, str]
) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.decoders import ByteLevel
    from tokenizers.models import BPE

    ids = {token: id_ for id_, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in file.texts("tokenizer.ggml.merges")]
    try:
        model = BPE(ids, merges, ignore_merges=splitting.whole_words)
    except Exception as error:
        raise ValueError(
            f"{file.path}: tokenizer.ggml.merges must be pairs of tokens that make tokens, but "
            f"they do not fit ({error}). Download another conversion of the model."
        ) from error
    backend = Tokenizer(model)
    backend.pre_tokenizer = splitting.pre_tokenizer()
    backend.decoder = ByteLevel()
    kinds = file.metadata["tokenizer.ggml.token_type"]
    for kind in (_CONTROL, _USER_DEFINED):
        written = [token for token, its in zip(tokens, kinds, strict=True) if its == kind]
        backend.add_tokens(
            [AddedToken(token, normalized=False, special=kind == _CONTROL) for token in written]
        )
    _open_and_close(file, backend, splitting, special)
    return backend


def _open_and_close(
    file: GgufFile, backend: Tokenizer, splitting: _Splitting, special: dict[str, str]
) -> None:
    """Puts the tokens around a text that the file asks for."""
    from tokenizers.processors import TemplateProcessing

    asked = {
        "bos_token": file.metadata.get("tokenizer.ggml.add_bos_token", splitting.opens),
        "eos_token": file.metadata.get("tokenizer.ggml.add_eos_token", False),
    }
    for name in (name for name, wanted in asked.items() if wanted and name not in special):
        raise ValueError(
            f"{file.path} asks for the {name} around every text, but names none. Download another "
            "conversion of the model."
        )
    opening, closing = (special[name] if wanted else None for name, wanted in asked.items())
    around = [token for token in (opening, closing) if token is not None]
    if not around:
        return
    single = [token for token in (opening, "$A", closing) if token is not None]
    pair = [token for token in (opening, "$A", opening, "$B", closing) if token is not None]
    backend.post_processor = TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys(around)],
    )
