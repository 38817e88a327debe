"""Messages as text and tokens, by the chat template of the tokenizer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from dpjax.data.messages import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION_MARKER = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


def check_chat_template(tokenizer: PreTrainedTokenizerBase, *, needs_markers: bool = False) -> None:
    """Refuses a tokenizer that cannot turn messages into tokens.

    Args:
        needs_markers: whether the template must mark what the assistant says. Without the marks
            transformers only warns, and says that no token is the assistant's.

    Raises:
        ValueError: there is no chat template, none by the name of "default", or no markers.
    """
    name = type(tokenizer).__name__
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{name} has no chat template, so it does not say how messages become text; set "
            "tokenizer.chat_template, or write the records as texts or as prompts and completions"
        )
    template = tokenizer.get_chat_template()
    if needs_markers and not _GENERATION_MARKER.search(template):
        raise ValueError(
            f"the chat template of {name} does not mark what the assistant says, so there would "
            "be nothing to learn; put {% generation %} and {% endgeneration %} around the "
            "assistant's content and end-of-turn token in tokenizer.chat_template, or write the "
            "records as prompts and completions, which needs no marks"
        )


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[Message],
    number: int,
    *,
    add_generation_prompt: bool = False,
) -> str:
    """The messages as one text; `number` says which record they are of in an error.

    Raises:
        ValueError: the template refuses the messages.
    """
    return _apply(
        tokenizer, messages, number, tokenize=False, add_generation_prompt=add_generation_prompt
    )


def tokenize_marked(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], number: int
) -> tuple[list[int], list[bool]]:
    """The token ids of the messages, and for each whether the template marks it the assistant's.

    Raises:
        ValueError: the template refuses the messages.
    """
    encoded = _apply(
        tokenizer,
        messages,
        number,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"verbose": False},
    )
    return encoded["input_ids"], [bool(marked) for marked in encoded["assistant_masks"]]


def _apply(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], number: int, **options: Any
) -> Any:
    import jinja2

    try:
        return tokenizer.apply_chat_template(messages, **options)
    except jinja2.TemplateError as error:
        said = str(error)
        # What the template itself says may be repeated, what it took from the record may not.
        known = said in str(tokenizer.get_chat_template())
        reason = f": {said}" if known else f" ({type(error).__name__})"
        raise ValueError(
            f"the chat template refuses the messages of record {number}{reason}"
        ) from None
