"""What records are written for: prompts, and how many records each of them gets."""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from dpjax.data import DataSource, Texts, read_language_records
from dpjax.synthesis.config import SynthesisConfig
from dpjax.synthesis.finished_run import FinishedRun


@dataclasses.dataclass(frozen=True)
class Condition:
    """What some of the records are written for.

    Attributes:
        prompt: what the model is given; None: it begins a text by itself.
        value: what stands in the column `by`; None without one.
        num: how many records are to be written for it.
    """

    prompt: str | None
    value: str | None
    num: int


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of the synthetic records.

    Attributes:
        written: holds what the model wrote.
        given: holds the prompt, or the value of the condition; None for whole texts.
        joins_prompt: whether the prompt begins what stands in `written`.
    """

    written: str
    given: str | None
    joins_prompt: bool = False

    def record(self, condition: Condition, text: str) -> dict[str, str]:
        """Returns the record of a text that was written for a condition."""
        if condition.value is not None:
            return {self.written: text.strip(), str(self.given): condition.value}
        if self.given is not None:
            return {self.given: str(condition.prompt), self.written: text}
        opening = condition.prompt if self.joins_prompt and condition.prompt else ""
        return {self.written: opening + text}


def make_columns(config: SynthesisConfig, run: FinishedRun) -> Columns:
    """Names the columns as the run's data has them; with `by` those of labelled texts.

    Raises:
        ValueError: two columns would have one name.
    """
    source = run.columns
    if config.by is not None:
        if config.by == source.text_column:
            raise ValueError(
                f"by must be another column than that of the texts, got by={config.by}"
            )
        return Columns(source.text_column, config.by)
    if run.learnt_texts:
        return Columns(source.text_column, None, joins_prompt=True)
    return Columns(source.completion_column, source.prompt_column)


def make_conditions(config: SynthesisConfig, run: FinishedRun) -> list[Condition]:
    """Makes the conditions of the options; their numbers of records add up to `num`.

    Raises:
        FileNotFoundError, ValueError: the file of prompts cannot be read, or is one of the run's
            data; the run needs prompts and there are none; or some condition gets no record.
    """
    prompts: Sequence[str | None]
    values: Sequence[str | None]
    if config.by is not None:
        template = config.prompt or f"{{{config.by}}}"
        prompts = [template.replace(f"{{{config.by}}}", value) for value in config.values]
        values = config.values
    elif config.prompts is not None:
        prompts = _read_prompts(config.prompts, run)
        values = [None] * len(prompts)
    else:
        prompts, values = [config.prompt], [None]
        if config.prompt is None and not run.learnt_texts:
            raise ValueError(
                f"{run.folder} has learnt to complete prompts: give by with values, prompt, or "
                "prompts"
            )
    nums = split_number(config.num, config.shares or (1.0,) * len(prompts))
    if not all(nums):
        what = f"value {values[nums.index(0)]!r}" if config.by else f"prompt {nums.index(0) + 1}"
        raise ValueError(
            f"num={config.num} leaves no record for {what} of {len(prompts)}: ask for more, or "
            "leave some out"
        )
    return [Condition(*each) for each in zip(prompts, values, nums, strict=True)]


def split_number(num: int, shares: Sequence[float]) -> list[int]:
    """Splits a number in proportion to shares; what is left goes to the largest remainders.

    Of equal remainders the first get more.

    Args:
        num: a whole number.
        shares: positive numbers.
    """
    # Exact: as floats, shares of one third could add up to less than the number.
    exact = [Fraction(share) for share in shares]
    parts = [num * share / sum(exact) for share in exact]
    nums = [math.floor(part) for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda place: nums[place] - parts[place])
    for place in by_remainder[: num - sum(nums)]:
        nums[place] += 1
    return nums


def _files_of(path: str) -> set[Path]:
    """The file or folder of this path, or all that match if it is a pattern; links are followed."""
    matches = glob.glob(str(Path(path).expanduser()), recursive=True)
    return {Path(match).resolve() for match in (path, *matches)}


def _read_prompts(path: str, run: FinishedRun) -> list[str]:
    """Reads a file of public prompts, which may not be one of the run's own data."""
    given = _files_of(path)
    for name in ("train_data", "eval_data"):
        own = getattr(run.config, name).path
        private = _files_of(own)
        if path == own or any({file, *file.parents} & private for file in given):
            raise ValueError(
                f"prompts must be public, got the {name} of the run, {path}: its prompts are parts "
                "of private records, and would stand in the synthetic ones. Give a public file"
            )
    column = run.columns.text_column if run.learnt_texts else run.columns.prompt_column
    source = DataSource(path, text_column=column, record_format="text")
    records = read_language_records(source)
    assert isinstance(records, Texts)
    first: dict[str, int] = {}
    for number, prompt in enumerate(records.texts, start=1):
        if first.setdefault(prompt, number) != number:
            raise ValueError(
                f"prompts must differ, but {path} has record {first[prompt]} again as record "
                f"{number}"
            )
    return records.texts
