"""What a causal language model learns from, checked: texts, answers to prompts, conversations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from dpjax.data.read.columns import Layout, RawColumns, Wanted
from dpjax.data.read.read import read_columns
from dpjax.data.records.base import RecordColumns, RecordsWithTools
from dpjax.data.records.checks import Checked, check_records, check_text
from dpjax.data.records.messages import Message, check_messages, without_weight
from dpjax.data.records.share_gpt import check_conversation
from dpjax.data.source import DataSource, RecordFormat

Content = str | list[Message]
"""A prompt or a completion: plain text, or messages that a chat template turns into text."""


@dataclasses.dataclass(frozen=True)
class Texts(RecordColumns):
    """Texts to be learnt as a whole, in the order of the source. None is empty.

    Example:
        >>> len(Texts(["A fine film.", "A dull one."]))
        2
    """

    texts: list[str]
    record_format: RecordFormat = dataclasses.field(
        default="text", kw_only=True, repr=False, compare=False
    )


@dataclasses.dataclass(frozen=True)
class Completions(RecordsWithTools):
    """Prompts, and the completions to be learnt, in the order of the source. None is empty.

    Those of one record are both strings or both lists of messages; a completion's messages are
    all the assistant's.

    Example:
        >>> Completions(["name[Vaults], food[French]"], ["Vaults serves French food."]).are_texts
        True
    """

    prompts: list[Content]
    completions: list[Content]
    record_format: RecordFormat = dataclasses.field(
        default="prompt_completion", kw_only=True, repr=False, compare=False
    )

    @property
    def are_texts(self) -> bool:
        """Whether no record is made of messages."""
        return all(isinstance(prompt, str) for prompt in self.prompts)


@dataclasses.dataclass(frozen=True)
class Conversations(RecordsWithTools):
    """Conversations of which the assistant's part is to be learnt, in the order of the source.

    Example:
        >>> question = {"role": "user", "content": "Is it open?"}
        >>> answer = {"role": "assistant", "content": "Until six."}
        >>> len(Conversations([[question, answer]]))
        1
    """

    conversations: list[list[Message]]
    record_format: RecordFormat = dataclasses.field(
        default="messages", kw_only=True, repr=False, compare=False
    )

    def units(self) -> Iterator[bytes]:
        """Every record as bytes that equal records share, whatever the weights of its messages."""
        said = [list(map(without_weight, messages)) for messages in self.conversations]
        return RecordsWithTools.units(dataclasses.replace(self, conversations=said))


LanguageRecords = Texts | Completions | Conversations

_LAYOUTS: dict[RecordFormat, Layout] = {
    "text": ("text",),
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "conversations": ("conversations",),
    "instruction_output": ("instruction", "output"),
}
_FORMATS = {layout: name for name, layout in _LAYOUTS.items()}


def read_language_records(source: DataSource) -> LanguageRecords:
    """Reads and checks every record of `source`.

    Which columns are read is said by `source.record_format`; "auto" takes the one format whose
    columns are all there. Texts stay as they are.

    Raises:
        FileNotFoundError: there is no such file or dataset; names similar files.
        ValueError: the source cannot be read as said, its columns fit no format or several, or a
            record lacks something. Lines are named, but never quoted: they are private.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("texts.jsonl").write_text('{"text": "A fine film."}')
        >>> read_language_records(DataSource("texts.jsonl"))
        Texts(texts=['A fine film.'])
    """
    chosen = source.record_format
    layouts = tuple(_LAYOUTS.values()) if chosen == "auto" else (_LAYOUTS[chosen],)
    return _checked(read_columns(Wanted(source, layouts)), source)


def _checked(raw: RawColumns, source: DataSource) -> LanguageRecords:
    record_format = _FORMATS[raw.layout]
    if record_format == "text":
        columns, owners, _ = check_records(raw, source, lambda text: (check_text(text),))
        return Texts(*columns, owners=owners)
    kind, check = _KINDS[record_format]
    columns, owners, tools = check_records(raw, source, check)
    return kind(*columns, owners=owners, tools=tools, record_format=record_format)


def check_answer(
    prompt: object, completion: object, name: str = "completion"
) -> tuple[Checked, Checked]:
    """A prompt and its completion must be of one kind; messages of the latter the assistant's.

    Args:
        prompt: as the source has it.
        completion: likewise.
        name: what the completion is called in messages.
    """
    checked_prompt = _check_content(prompt, "prompt")
    checked_completion, problem = _check_content(completion, name)
    if problem or checked_prompt[1]:
        return checked_prompt, (checked_completion, problem)
    if isinstance(prompt, str) != isinstance(completion, str):
        problem = f"{name} of another kind than the prompt: one is a text, the other messages"
    elif not isinstance(completion, str) and any(
        message["role"] != "assistant" for message in checked_completion
    ):
        problem = f"a {name} message whose role is not assistant"
    elif not isinstance(completion, str) and any(
        "weight" in message for message in (*checked_prompt[0], *checked_completion)
    ):
        problem = "a message with a weight: of prompts and completions the completion is learnt"
    return checked_prompt, (checked_completion, problem)


def _check_content(value: object, name: str) -> Checked:
    return check_messages(value, name) if isinstance(value, list) else check_text(value, name)


def _check_instruction(
    instruction: object, output: object, beside: object = None
) -> tuple[Checked, Checked]:
    """The prompt under Alpaca's headings, and the output. The input may be missing or empty."""
    asked, problem = check_text(instruction, "instruction")
    given, input_problem = ("", None) if _is_blank(beside) else check_text(beside, "input")
    written = f"### Instruction:\n{asked}\n\n"
    if given:
        written += f"### Input:\n{given}\n\n"
    return (f"{written}### Response:\n", problem or input_problem), check_text(output, "output")


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


_KINDS: dict[str, tuple[type[Completions | Conversations], Callable[..., tuple[Checked, ...]]]] = {
    "prompt_completion": (Completions, check_answer),
    "messages": (Conversations, lambda talk: (check_conversation(talk, "messages"),)),
    "conversations": (Conversations, lambda talk: (check_conversation(talk, "conversations"),)),
    "instruction_output": (Completions, _check_instruction),
}
