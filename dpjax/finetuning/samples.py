"""What the tuned model writes to held-out prompts, for people to read."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from dpjax.data import Completions, Conversations, encode_prompts
from dpjax.finetuning.prepare import Plan
from dpjax.models import CausalLM, end_token_ids, generate, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Sample:
    """A held-out prompt, what the record answers, and what the model does."""

    prompt: str
    expected: str
    written: str


def write_samples(plan: Plan, model: CausalLM) -> list[Sample]:
    """The model's most probable answers to the prompts of the plan; none without prompts.

    Of a long prompt the last `max_length` tokens are answered.
    """
    if plan.prompts is None:
        return []
    config = plan.config
    tokenizer = load_tokenizer(plan.checkpoint, needs_padding=False)
    prompts = encode_prompts(
        plan.prompts, tokenizer, config.training.max_length, separator=config.separator
    )
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    written = generate(
        model,
        prompts.input_ids,
        prompts.attention_mask,
        max_new_tokens=config.generation.max_new_tokens,
        eos_token_ids=end_token_ids(plan.checkpoint, tokenizer),
        pad_token_id=(end or 0) if padding is None else padding,
    )
    samples = []
    rows = zip(_pairs(plan.prompts), written.tokens, written.num_tokens, strict=True)
    for (prompt, expected), tokens, length in rows:
        text = tokenizer.decode([int(t) for t in tokens[: int(length)]], skip_special_tokens=True)
        samples.append(Sample(prompt, expected, text.strip()))
    return samples


def _pairs(records: Completions | Conversations) -> Collection[tuple[str, str]]:
    """Prompts and answers as they are shown."""
    if isinstance(records, Completions):
        return [
            (_text(prompt), _text(completion))
            for prompt, completion in zip(records.prompts, records.completions, strict=True)
        ]
    pairs = []
    for messages in records.conversations:
        last = max(
            (i for i, message in enumerate(messages) if message["role"] == "assistant"),
            default=len(messages),
        )
        answer = messages[last]["content"] if last < len(messages) else ""
        pairs.append((_text(messages[:last]), answer.strip()))
    return pairs


def _text(content: str | list[dict[str, str]]) -> str:
    if isinstance(content, str):
        return content.strip()
    return " / ".join(f"{message['role']}: {message['content'].strip()}" for message in content)
