"""Messages as text, by the chat template of the tokenizer."""

from __future__ import annotations

import datetime
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpjax.data.records.messages import Message, without_weight
from dpjax.data.records.tools import Tools
from dpjax.data.unicode import has_half_surrogate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Characters of a text: the first, and the one after the last."""

_PROCESS = Path(__file__).with_name("template_process.py")
# An ordinary conversation takes about a millisecond.
SECONDS = 5
MEGABYTES = 512
# Beside those of the messages, which a template may repeat.
CHARACTERS = 1_000_000
REPEATS = 10

_GENERATION_MARKER = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class RecordError(ValueError):
    """One record cannot be used; the message names it.

    Example:
        >>> raise RecordError("record 3: its prompt has no tokens")
        Traceback (most recent call last):
            ...
        dpjax.data.encode.chat_template.RecordError: record 3: its prompt has no tokens
    """


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer that cannot turn messages into tokens.

    Raises:
        ValueError: there is no chat template, or none by the name of "default".
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{_name(tokenizer)} has no chat template, so it does not say how messages become "
            "text; set tokenizer.chat_template, or write the records as texts or as prompts and "
            "completions"
        )
    template = tokenizer.get_chat_template()
    if not isinstance(template, str):
        raise ValueError(
            f"the chat template of {_name(tokenizer)} must be text, got a {type(template).__name__}"
        )


class ChatTemplate:
    """The chat template of a tokenizer, rendered as transformers does, but in a bounded process.

    Use it as a context manager; the process starts with the first messages. What a template may
    take of time, memory and characters is said above.

    Args:
        tokenizer: has a template that `check_chat_template` accepts, if anything is rendered.
        today: what the template takes for the current date and time; None: it may not ask.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, today: datetime.datetime | None = None
    ) -> None:
        if today is not None and not isinstance(today, datetime.datetime):
            raise TypeError(f"today must be a datetime.datetime, got {type(today).__name__}")
        self._tokenizer = tokenizer
        self._today = today
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ChatTemplate:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.kill()
            # What was not read or written is of no use any more.
            self._process.communicate()
            self._process = None

    @property
    def is_marked(self) -> bool:
        """Whether the template marks what the assistant says."""
        return bool(_GENERATION_MARKER.search(self._tokenizer.get_chat_template()))

    @property
    def closing(self) -> str:
        """The end-of-sequence token, with which some templates close every text."""
        return self._tokenizer.eos_token or ""

    def render(
        self,
        messages: list[Message],
        number: int,
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """The messages as one text; `number` says which record they are of in an error.

        Raises:
            RecordError: the template refuses the messages, or takes too much for them.
            ValueError: the template is not one.
        """
        answer = self._ask(messages, number, tools, add_generation_prompt, marked=False)
        return str(answer["text"])

    def render_marked(
        self, messages: list[Message], number: int, *, tools: Tools | None = None
    ) -> tuple[str, list[Span]]:
        """The messages as one text, and what the template marks in it as the assistant's.

        Raises:
            RecordError: the template refuses the messages, takes too much for them, or does
                something with the assistant's part after marking it.
            ValueError: the template is not one.
        """
        answer = self._ask(messages, number, tools, add_generation_prompt=False, marked=True)
        return answer["text"], [(start, end) for start, end in answer["spans"]]

    def check_tools(self, messages: list[Message], number: int, tools: Tools) -> None:
        """Refuses tools that the template does not write: they would be lost.

        Raises:
            RecordError: the text of the messages is the same without them.
        """
        if not tools:
            return
        written = self.render(messages, number, tools=tools)
        try:
            without = self.render(messages, number)
        except RecordError:
            return  # It needs them.
        if written == without:
            raise RecordError(
                f"record {number} has tools, which the chat template of {_name(self._tokenizer)} "
                "does not write; remove the column, write them into the system's message, or "
                "correct tokenizer.chat_template"
            )

    def _ask(
        self,
        messages: list[Message],
        number: int,
        tools: Tools | None,
        add_generation_prompt: bool,
        marked: bool,
    ) -> dict[str, Any]:
        self._check_written(messages, number)
        process = self._process or self._start()
        question = {
            "messages": [_without_nulls(without_weight(message)) for message in messages],
            # Templates ask whether there are any by `is not none`.
            "tools": tools or None,
            "add_generation_prompt": add_generation_prompt,
            "marked": marked,
        }
        answer = _answer_of(process, question)
        if answer.get("failure") == "UndefinedError":
            # DeepSeek's templates ask whether the content of a call is null.
            question["messages"] = list(map(without_weight, messages))
            answer = _answer_of(process, question)
        if "failure" in answer:
            raise RecordError(
                f"the chat template of {_name(self._tokenizer)} {self._explained(answer, number)}"
            ) from None
        if has_half_surrogate(answer["text"]):
            raise RecordError(
                f"the chat template of {_name(self._tokenizer)} writes half a surrogate pair (not "
                f"valid Unicode) for record {number}"
            )
        return answer

    def _check_written(self, messages: list[Message], number: int) -> None:
        template = self._tokenizer.get_chat_template()
        for key in ("tool_calls", "reasoning_content"):
            if key not in template and any(message.get(key) for message in messages):
                raise RecordError(
                    f"record {number} has {key}, which the chat template of "
                    f"{_name(self._tokenizer)} does not write; remove them, write them into the "
                    "content, or correct tokenizer.chat_template"
                )

    def _start(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the terminal is for this process alone.
        process = self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROCESS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        answer = _answer_of(
            process,
            {
                "template": self._tokenizer.get_chat_template(),
                "variables": self._tokenizer.special_tokens_map,
                "today": self._today and self._today.isoformat(),
                "seconds": SECONDS,
                "megabytes": MEGABYTES,
                "characters": CHARACTERS,
                "repeats": REPEATS,
            },
        )
        if "failure" in answer:
            raise ValueError(
                f"the chat template of {_name(self._tokenizer)} {self._explained(answer, None)}"
            )
        return process

    def _explained(self, answer: dict[str, Any], number: int | None) -> str:
        """How the template failed, after "the chat template of ..."; None: it was not read yet."""
        failure, said = answer["failure"], answer.get("said", "")
        messages = f"the messages of record {number}"
        when = "to be read" if number is None else f"for {messages}"
        if failure == "end" and answer["status"] == -getattr(signal, "SIGPROF", 0):
            return f"takes more than {SECONDS} s of computing {when}; {_ADVICE}"
        if failure == "end":
            return f"stopped its process (exit status {answer['status']}) {when}; {_ADVICE}"
        if failure == "memory":
            return f"takes more than {MEGABYTES} MB {when}; {_ADVICE}"
        if failure == "length":
            return (
                f"writes more than {CHARACTERS} characters and {REPEATS} times those "
                f"of {messages}; {_ADVICE}"
            )
        if failure == "date":
            return (
                f"writes the current date into {messages}; set today, for instance to "
                "datetime.datetime.now(), and keep it: with another date the tokens are others"
            )
        if failure == "marks":
            return (
                f"works on {messages} after it has marked the assistant's part, which can then not "
                "be told from the rest; put {% generation %} where the content is written"
            )
        if failure == "syntax":
            return f"is no Jinja template: {said}; {_ADVICE}"
        if number is None:
            return f"cannot be read ({failure}); {_ADVICE}"
        # What the template itself says may be repeated, what it took from the record may not.
        known = said and said in self._tokenizer.get_chat_template()
        return f"refuses {messages}" + (f": {said}" if known else f" ({failure})")


_ADVICE = "correct tokenizer.chat_template"


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or type(tokenizer).__name__


def _without_nulls(message: Message) -> Message:
    """A message as transformers gives it to templates, some of which would write None."""
    return {key: value for key, value in message.items() if value is not None}


def _answer_of(process: subprocess.Popen[bytes], question: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None  # They are pipes.
    try:
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # It has ended, which the end of its answers tells too.
    line = process.stdout.readline()
    if not line:
        return {"failure": "end", "status": process.wait()}
    answer: dict[str, Any] = json.loads(line)
    return answer
