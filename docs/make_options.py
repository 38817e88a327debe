"""Writes guide/options.md: every option of runs and of what reads one, from their dataclasses.

python docs/make_options.py
"""

from __future__ import annotations

import ast
import dataclasses
import datetime
import inspect
import textwrap
import types
import typing
from pathlib import Path
from typing import Any, Literal

from dpjax.basics.option_checks import checks_deferred
from dpjax.federated import (
    ClientPrivacy,
    Clients,
    FederatedConfig,
    FederatedLora,
    RoundOptions,
    Server,
)
from dpjax.finetuning import FinetuneConfig, make_task
from dpjax.synthesis import SynthesisConfig
from dpjax.unlearning import Certified, UnlearnConfig

PAGE = Path(__file__).parent / "guide" / "options.md"
_HEADER = """\
# Options

Every option of `dpjax.finetune` and of `dpjax finetune`. `python docs/make_options.py` writes this
page.

In Python a group is a mapping or its dataclass: `privacy={"target_epsilon": 3.0}`. On the command
line the same option is `--privacy.target-epsilon 3`: a dot after the group, dashes for underscores.
An option that belongs to one task is refused with another.
"""
_REQUIRED = {"model": "m", "train_data": "t.csv", "eval_data": "e.csv", "output_dir": "o"}


@dataclasses.dataclass(frozen=True)
class Option:
    """One row of the page.

    Attributes:
        name: dotted, as in `privacy.clip_norm`.
        hint: its type.
        default: `dataclasses.MISSING` for one that must be given.
        meaning: the docstring under the field.
    """

    name: str
    hint: Any
    default: Any
    meaning: str


def options_page() -> str:
    """Returns the page as Markdown."""
    sections = [_HEADER, _section("The run", _options(FinetuneConfig, ""))]
    for group, cls in _groups():
        title, about = group.replace("_", " ").capitalize(), _first_line(cls)
        sections.append(_section(f"{title}: `{group}`", _options(cls, f"{group}."), about))
    about = "Of `dpjax.synthesize` and `dpjax synthesize` ([synthetic text](../synthesis.md))."
    options = _options(SynthesisConfig, "")
    sections.append(_section("Synthetic records", options, about, of_tasks=False))
    about = "Of `dpjax.unlearning.unlearn` and `dpjax unlearn` ([unlearning](../unlearning.md))."
    options = _options(UnlearnConfig, "")
    sections.append(_section("Unlearning", options, about, of_tasks=False))
    options, about = _options(Certified, "certified."), _first_line(Certified)
    sections.append(_section("Certified unlearning: `certified`", options, about, of_tasks=False))
    return "\n".join([*sections, *_of_federated_runs()])


def _of_federated_runs() -> list[str]:
    about = (
        "Of `dpjax.federated.federate` and `dpjax federated` ([federated](federated.md)). Groups "
        "that are not below, and the other options of `lora`, are those of `dpjax.finetune`."
    )
    sections = [_section("Federated runs", _options(FederatedConfig, ""), about, of_tasks=False)]
    groups = {"clients": Clients, "server": Server, "privacy": ClientPrivacy}
    for group, cls in (groups | {"training": RoundOptions, "lora": FederatedLora}).items():
        title, about = f"Federated {group}: `{group}`", _first_line(cls)
        options = _options(cls, f"{group}.")
        sections.append(_section(title, options, about, of_tasks=False))
    return sections


def _groups() -> list[tuple[str, type]]:
    hints = typing.get_type_hints(FinetuneConfig)
    groups = [(name, hint) for name, hint in hints.items() if dataclasses.is_dataclass(hint)]
    # Both sources of data have the same options.
    return [(name, cls) for name, cls in groups if name != "eval_data"]


def _section(title: str, options: list[Option], about: str = "", *, of_tasks: bool = True) -> str:
    heads = ["Option", "Type", "Default", *(["Task"] if of_tasks else []), "Meaning"]
    rows = [f"## {title}\n", *([f"{about}\n"] if about else [])]
    rows += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for option in options:
        default = "required" if option.default is dataclasses.MISSING else f"`{option.default!r}`"
        cells = [f"`{option.name}`", f"`{_type_name(option.hint)}`", default]
        cells += [_tasks_of(option)] if of_tasks else []
        rows.append("| " + " | ".join(map(_escaped, (*cells, option.meaning))) + " |")
    return "\n".join(rows) + "\n"


def _options(cls: type, prefix: str) -> list[Option]:
    hints, meanings = typing.get_type_hints(cls), field_docstrings(cls)
    return [
        Option(prefix + field.name, hints[field.name], field.default, meanings[field.name])
        for field in dataclasses.fields(cls)
        if field.name in meanings
    ]


def field_docstrings(cls: type) -> dict[str, str]:
    """Returns the string that stands under each field in the source of a dataclass."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            found[field.target.id] = " ".join(ast.literal_eval(below.value).split())
    return found


def _first_line(cls: type) -> str:
    return inspect.getdoc(cls).splitlines()[0]


def _type_name(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " | ".join(map(repr, args))
    if origin in (types.UnionType, typing.Union):
        return " | ".join(map(_type_name, args))
    if origin is tuple:
        return f"tuple[{_type_name(args[0])}, ...]"
    return "None" if hint is type(None) else hint.__name__


def _tasks_of(option: Option) -> str:
    tasks = typing.get_args(typing.get_type_hints(FinetuneConfig)["task"])
    taking = [task for task in tasks if _takes(task, option)]
    return "every" if len(taking) == len(tasks) else ", ".join(f"`{task}`" for task in taking)


def _takes(task: str, option: Option) -> bool:
    """Whether a run of the task takes the option with a value that is not the default."""
    group, _, name = option.name.rpartition(".")
    given: dict[str, Any] = {**_REQUIRED, "task": task, "privacy": {"target_epsilon": 1.0}}
    value = _another_value(option.hint, option.default)
    given |= {group: {name: value}} if group else {name: value}
    # A value that its own group refuses, such as "x" for words of labels, says nothing of tasks.
    try:
        with checks_deferred():
            config = FinetuneConfig.from_options(given)
        config.check()
        make_task(config, datetime.datetime.now())
    except (TypeError, ValueError) as error:
        return f"task={task}" not in str(error)
    return True


def _another_value(hint: Any, default: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return next(choice for choice in args if choice != default)
    if origin in (types.UnionType, typing.Union):
        return _another_value(args[0], default)
    if origin is tuple:
        return (_another_value(args[0], None),)
    return {bool: True, int: 2, float: 0.5, str: "x"}.get(hint, "x")


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(options_page(), encoding="utf-8")
