"""What a model writes where a record goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dpjax.data import LanguageDataset
from dpjax.models import CausalLM, generate
from dpjax.unlearning.measures.overlap import rouge_l

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH_SIZE = 32


def mean_rouge_l(
    model: CausalLM,
    records: LanguageDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    end_tokens: tuple[int, ...],
    has_prompts: bool,
) -> float:
    """Returns the mean ROUGE-L of greedy continuations with what the records hold.

    Given is all before the first target token; of whole texts, which have no prompt, the first half
    of their tokens. Of a conversation it is the first answer that is written.

    Args:
        model: writes, greedily.
        records: N records, each with a target.
        tokenizer: of the model.
        end_tokens: each ends a text.
        has_prompts: False of whole texts.
    """
    prefixes, wanted = _split(records, has_prompts)
    longest = max(map(len, prefixes))
    # The mask hides padding, whatever it is.
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_tokens[0]
    ids = np.full((len(prefixes), longest), padding, np.int32)
    mask = np.zeros(ids.shape, np.bool_)
    for row, prefix in enumerate(prefixes):
        ids[row, longest - len(prefix) :] = prefix
        mask[row, longest - len(prefix) :] = True
    scores: list[float] = []
    size = min(_BATCH_SIZE, len(prefixes))
    for start in range(0, len(prefixes), size):
        # The last batch has the shape of the others.
        rows = np.minimum(np.arange(start, start + size), len(prefixes) - 1)
        written = generate(
            model,
            ids[rows],
            mask[rows],
            max_new_tokens=max(map(len, wanted)),
            eos_token_ids=end_tokens,
            pad_token_id=padding,
        )
        for row, tokens, count in zip(
            range(start, min(start + size, len(prefixes))),
            np.asarray(written.tokens),
            np.asarray(written.num_tokens),
            strict=False,
        ):
            text, reference = (
                str(tokenizer.decode(each, skip_special_tokens=True))
                for each in (tokens[:count].tolist(), wanted[row])
            )
            scores.append(rouge_l(text, reference))
    return float(np.mean(scores))


def _split(records: LanguageDataset, has_prompts: bool) -> tuple[list[list[int]], list[list[int]]]:
    """What is given of each record, and the target tokens that follow without a gap."""
    prefixes, wanted = [], []
    for ids, counts in zip(records.input_ids, records.loss_mask, strict=True):
        first = int(counts.argmax())
        gaps = np.flatnonzero(~counts[first:])
        end = first + int(gaps[0]) if len(gaps) else len(counts)
        cut = first if has_prompts else max(first, (first + end) // 2)
        prefixes.append(ids[:cut].tolist())
        wanted.append(ids[cut:end].tolist())
    return prefixes, wanted
