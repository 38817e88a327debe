"""What the tuned model writes to held-out prompts, for people to read."""

from __future__ import annotations

from typing import Any

from dpjax.data import Message, message_text
from dpjax.finetuning.result import Sample
from dpjax.finetuning.setup.plan import Plan
from dpjax.models import SplitModel, base_model, end_token_ids, generate, load_tokenizer


def write_samples(plan: Plan, tuned: SplitModel) -> list[Sample]:
    """The model's most probable answers to the prompts of the plan; none without prompts.

    Of a long prompt the last `max_length` tokens are answered.
    """
    held_out = plan.prompts
    if held_out is None or not held_out.prompts:
        return []
    tokenizer = load_tokenizer(plan.checkpoint, needs_padding=False)
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    model, suspicion = tuned.merge(), plan.config.generation.suspicion
    defence: dict[str, Any] = {}
    if suspicion is not None:
        defence = {"reference": base_model(model), "suspicion": suspicion}
    written = generate(
        model,
        held_out.encoded.input_ids,
        held_out.encoded.attention_mask,
        max_new_tokens=plan.config.generation.max_new_tokens,
        eos_token_ids=end_token_ids(plan.checkpoint, tokenizer),
        pad_token_id=(end or 0) if padding is None else padding,
        **defence,
    )
    samples = []
    rows = zip(held_out.prompts, written.tokens, written.num_tokens, strict=True)
    for prompt, tokens, length in rows:
        text = tokenizer.decode([int(t) for t in tokens[: int(length)]], skip_special_tokens=True)
        samples.append(Sample(_text(prompt.content), _answer(prompt.answer), text.strip()))
    return samples


def _text(content: str | list[Message]) -> str:
    if isinstance(content, str):
        return content.strip()
    return " / ".join(f"{message['role']}: {message_text(message).strip()}" for message in content)


def _answer(content: str | list[Message]) -> str:
    if isinstance(content, str):
        return content.strip()
    return " ".join(message_text(message).strip() for message in content)
