"""Records of a causal language model as arrays, with the tokens that count as targets."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING

import numpy as np

from dpjax.data.encode.base import EncodedRecords, HasTargets
from dpjax.data.encode.chat_template import ChatTemplate, check_chat_template
from dpjax.data.encode.padding import pad_rows, pad_tokens
from dpjax.data.encode.target_tokens import check_separator, target_tokens
from dpjax.data.encode.tokenizing import check_max_length, check_tokenizer
from dpjax.data.records.language import Completions, Conversations, LanguageRecords

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageDataset(HasTargets, EncodedRecords):
    """N records, padded on the right to T tokens, the longest record's, at most max_length.

    Example:
        >>> ids = np.array([[5, 6, 7], [5, 0, 0]], np.int32)
        >>> counts = np.array([[False, True, True], [False, False, False]])
        >>> data = LanguageDataset(ids, ids != 0, truncated=np.zeros(2, bool), loss_mask=counts)
        >>> data.num_without_targets
        1
    """

    loss_mask: np.ndarray
    """(N, T) bool, True where the token at this position is a target: to be predicted from those
    before it. Column 0 is False, and so is padding."""


def encode_language(
    records: LanguageRecords,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    separator: str = "",
    today: datetime.datetime | None = None,
) -> LanguageDataset:
    """Tokenises every record, cuts its end off after `max_length` tokens, and marks the targets.

    Texts: the beginning-of-sequence token if the tokenizer adds one, the text, and the
    end-of-sequence token, so that a model learns to stop. All but the first token are targets. A
    text that is written with either token gets no second one.

    Prompts and completions: likewise, prompt and completion together; the completion and the
    end-of-sequence token are targets. The prompt's tokens are those of the prompt alone, as in
    generation. Where the tokens of both together begin with them, the rest is the completion's;
    where a token would reach over the boundary, the completion is tokenised alone. Nothing is put
    between the two but `separator`, which belongs to the prompt. Of messages the chat template
    writes both, the prompt with its invitation to answer, and no token is added.

    Conversations: as the chat template writes them; the assistant's part is the target, the first
    token apart. Messages that call tools are learnt only with `weight` 1, others unless it is 0.
    Where the template has markers `{% generation %}` and `{% endgeneration %}`, the part is what
    stands between them; a token that reaches over a marker is a target only if nothing but blanks
    is on the other side. Without markers it is what the template writes after its invitation to
    answer, up to the next message. The text up to either edge must be the beginning of the
    conversation's text and tokens; a record of which that is not so is refused.

    Chat templates are rendered in a process of their own with at most 5 s of computing, 512 MB
    (on Linux) and a million characters beside ten times the messages' for each record.

    Special tokens that are written out in a record are read as such. A tokenizer without a padding
    token is fine: padding is masked.

    Args:
        records: texts, prompts with completions, or conversations.
        tokenizer: a fast one.
        max_length: T, with the special tokens.
        separator: stands between a prompt and its completion, and belongs to the prompt.
        today: the local date and time that a chat template gets when it asks (`strftime_now`), as
            those of Llama 3.2 and Granite do. The same records, tokenizer and `today` give the same
            arrays.

    Raises:
        TypeError: the tokenizer is not a fast one.
        ValueError: `max_length` is below 8 or above what the tokenizer says its model takes, there
            is no end-of-sequence token, messages meet a tokenizer without a chat template, a
            separator is given for messages or texts, the template refuses a record, takes too much
            for it, writes it so that the assistant's part cannot be told, or asks for the date and
            there is no `today`, or no record has a target.

    Example:
        >>> from transformers import BertTokenizer
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film"]
        >>> tokenizer = BertTokenizer(dict(zip(words, range(8))), eos_token="[SEP]")
        >>> records = Completions(["a fine"], ["film"])
        >>> data = encode_language(records, tokenizer, max_length=8, separator=" ")
        >>> data.input_ids.tolist(), data.loss_mask.tolist()
        ([[2, 5, 6, 7, 3]], [[False, False, False, True, True]])
    """
    check_tokenizer(tokenizer)
    check_max_length(max_length, tokenizer)
    check_separator(separator, records)
    _check_means(records, tokenizer)
    ids: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    truncated = np.zeros(len(records), np.bool_)
    with ChatTemplate(tokenizer, today) as template:
        rows = target_tokens(records, tokenizer, template, separator)
        for row, (tokens, counts) in enumerate(rows):
            ids.append(np.array(tokens[:max_length], np.int32))
            targets.append(counts[:max_length])
            truncated[row] = len(tokens) > max_length
    dataset = LanguageDataset(
        *pad_tokens(ids, tokenizer, "right"),
        truncated,
        loss_mask=pad_rows(targets, False, "right", np.bool_),
    )
    if len(dataset) and dataset.without_targets.all():
        raise ValueError(_nothing_to_learn(dataset, max_length))
    return dataset


def _check_means(records: LanguageRecords, tokenizer: PreTrainedTokenizerBase) -> None:
    if isinstance(records, Conversations):
        check_chat_template(tokenizer)
        return
    if isinstance(records, Completions) and not records.are_texts:
        check_chat_template(tokenizer)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no end-of-sequence token, so a model could not learn "
            "to stop; set tokenizer.eos_token to the one that the model was trained with"
        )


def _nothing_to_learn(dataset: LanguageDataset, max_length: int) -> str:
    nothing = f"nothing to learn in any of the {len(dataset)} records"
    if dataset.num_truncated == len(dataset):
        return (
            f"{nothing}: within max_length={max_length} tokens there is only what comes before the "
            "first answer; use a larger max_length"
        )
    return (
        f"{nothing}, of which {dataset.num_truncated} were cut to max_length={max_length} tokens: "
        "the others hold no token after the first that is to be learnt, such as one of an answer "
        "whose weight is not 0 or that the chat template marks the assistant's"
    )
