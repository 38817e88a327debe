"""A process that renders one chat template and nothing else, within bounds of time and memory.

`ChatTemplate` starts it as a script: a template from the hub is a program, and the operating system
alone stops it whatever it does. It imports Jinja and the standard library. A line of JSON asks, a
line of JSON answers; the first line brings the template and the bounds.
"""

from __future__ import annotations

import datetime
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox

_LONGEST_SAID = 500
# Private use and noncharacters first: they are hardly ever in a text.
_RARE_CHARACTERS = range(0xFDD0, 0x110000)


class _Answers(jinja2.ext.Extension):
    """`{% generation %}` ... `{% endgeneration %}`, around what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 (as in Jinja)
    # Jinja's class, with the attribute that this extension adds.
    environment: Any

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        environment.extend(answer_marks=("", ""))

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        """What stands between the tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        before, after = self.environment.answer_marks
        return f"{before}{caller()}{after}"


class _Namespace(jinja2.utils.Namespace):
    """Jinja's, closed to names that lead into the interpreter."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_attribute(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError("a namespace takes no name that begins with _")


class _Dict:
    """`dict`, of which only calls are open."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """As `dict.fromkeys`."""
        return dict.fromkeys(*args)


class _DateUnknownError(Exception):
    """The template asks for the date, and there is none."""


def compile_template(source: str, today: datetime.datetime | None) -> jinja2.Template:
    """The template with the functions that transformers gives it, and `today` for the clock."""

    def strftime_now(form: str) -> str:
        if today is None:
            raise _DateUnknownError
        return today.strftime(form)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Answers, jinja2.ext.loopcontrols]
    )
    # The same records must give the same tokens when a run is resumed.
    del environment.filters["random"], environment.globals["lipsum"]
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment.from_string(source)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def render(
    template: jinja2.Template, start: Mapping[str, Any], request: Mapping[str, Any]
) -> dict[str, Any]:
    """The text of the messages, and the spans of characters that are the assistant's, if asked.

    Where a macro, a filter or an assignment stands around the tags, what they enclose is not where
    Jinja was when it met them. Rare characters around it are found in the text wherever it went.
    """
    given = {
        **start["variables"],
        "messages": request["messages"],
        "tools": request["tools"],
        "documents": None,
    }
    given["add_generation_prompt"] = request["add_generation_prompt"]
    environment: Any = template.environment
    environment.answer_marks = ("", "")
    text = template.render(given)
    content = len(json.dumps([request["messages"], request["tools"]], ensure_ascii=False))
    if len(text) > start["characters"] + start["repeats"] * content:
        return {"failure": "length"}
    if not request["marked"]:
        return {"text": text}
    unused = (mark for mark in map(chr, _RARE_CHARACTERS) if mark not in text)
    marks = next(unused), next(unused)
    environment.answer_marks = marks
    spans = list(_spans(template.render(given), text, marks))
    return {"failure": "marks"} if None in spans else {"text": text, "spans": spans}


def _spans(marked: str, text: str, marks: tuple[str, str]) -> Iterator[tuple[int, int] | None]:
    """Start and end of what the outermost marks enclose; None where the text came out otherwise."""
    length = depth = start = 0
    pieces = re.split(f"([{''.join(marks)}])", marked)
    if "".join(piece for piece in pieces if piece not in marks) != text:
        yield None
    for piece in pieces:
        if piece not in marks:
            length += len(piece)
        elif piece == marks[0]:
            start = start if depth else length
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                yield start, length
            elif depth < 0:
                yield None
    if depth:
        yield None


def _limit_memory(megabytes: int) -> None:
    # Elsewhere there is no such limit, or it is not kept to.
    if sys.platform == "linux":
        import resource

        wanted = megabytes * 2**20
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            wanted = min(wanted, most)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, most))


def _limit_time(seconds: float) -> None:
    """Ends this process after so many seconds of computing, 0 for never."""
    if hasattr(signal, "setitimer"):
        # By the signal's default action: a handler in Python waits for a long multiplication.
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _answered(make: Callable[[], dict[str, Any]], seconds: float) -> bytes:
    """What `make` says, or how it failed, as a line of JSON."""
    try:
        _limit_time(seconds)
        answer = json.dumps(make())
    except MemoryError:
        answer = json.dumps({"failure": "memory"})
    except _DateUnknownError:
        answer = json.dumps({"failure": "date"})
    except jinja2.TemplateSyntaxError as error:
        said = f"{error.message} (line {error.lineno})"
        answer = json.dumps({"failure": "syntax", "said": said})
    except Exception as error:  # A template can raise whatever Python can.
        answer = json.dumps({"failure": type(error).__name__, "said": str(error)[:_LONGEST_SAID]})
    finally:
        _limit_time(0)
    return answer.encode() + b"\n"


def main() -> None:
    """Answers the lines of standard input until it ends."""
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    start = json.loads(questions.readline())
    _limit_memory(start["megabytes"])
    today = start["today"] and datetime.datetime.fromisoformat(start["today"])
    templates: list[jinja2.Template] = []

    def prepare() -> dict[str, Any]:
        templates.append(compile_template(start["template"], today))
        return {}

    def rendered(question: bytes) -> dict[str, Any]:
        return render(templates[0], start, json.loads(question))

    answers.write(_answered(prepare, start["seconds"]))
    answers.flush()
    for question in questions:
        answers.write(_answered(partial(rendered, question), start["seconds"]))
        answers.flush()


if __name__ == "__main__":
    main()
