"""What `dpjax synthesize` is asked to write."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal, get_args

from dpjax.basics.option_checks import (
    CheckedOptions,
    check_at_least,
    check_choice,
    check_positive,
    did_you_mean,
)

FileFormat = Literal["jsonl", "csv"]

_FIELD = re.compile(r"\{(\w+)\}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SEEDS = 2**32


@dataclasses.dataclass(frozen=True, kw_only=True)
class SynthesisConfig(CheckedOptions):
    """Write synthetic records with a decoder that finetune has tuned; no private record is read.

    Example:
        >>> config = SynthesisConfig(
        ...     run="runs/first",
        ...     num=100,
        ...     output_dir="synthetic",
        ...     by="label",
        ...     values=("praise", "complaint"),
        ...     prompt="Category: {label}. Message:",
        ... )
        >>> config.temperature, config.top_p
        (1.0, 1.0)
    """

    run: str
    """Folder of a finished run with task=causal_lm."""
    num: int
    """How many records are written."""
    output_dir: str
    """New folder for the records and their privacy report."""
    by: str | None = None
    """Column of the synthetic records that says what each was written for, such as label."""
    values: tuple[str, ...] = ()
    """What stands in that column. These are public: name them, never read them off the training
    file."""
    shares: tuple[float, ...] = ()
    """How many records each value gets, in proportion; default: equally many. These are public
    numbers too: how often a label occurs in the training file is private."""
    prompt: str | None = None
    """What the model is given. With by it is a template: {label} becomes the value, if by is label;
    default: the value alone."""
    prompts: str | None = None
    """File with the run's prompt column: each of these prompts gets equally many records. They
    must be public, and stand in the records."""
    temperature: float = 1.0
    """Tokens are drawn from softmax(logits / temperature). 1 is what the model has learnt; less
    gives fewer different texts."""
    top_p: float = 1.0
    """Draw among the most probable tokens that together have this probability; 1: among all."""
    max_new_tokens: int | None = None
    """Longest text, in tokens; default: what the run's training.max_length leaves after the longest
    prompt."""
    seed: int | None = None
    """Of the draws: the same seed gives the same records; default: a fresh one, which the report
    names. It need not be secret."""
    batch_size: int = 64
    """Texts that are written at once: changes time and memory, and no record beyond rounding."""
    max_tries: int = 5
    """Empty texts and repeated ones are dropped and drawn again; a value or prompt that is to have
    n records gets at most max_tries · n draws."""
    file_format: FileFormat = "jsonl"
    """Whether the records are in records.jsonl or in records.csv."""
    allow_non_private: bool = False
    """Take a run without privacy. Its records may hold training records word by word."""
    compare_with: str | None = None
    """The training file of the run, or another with its columns: once all records are written,
    private_comparison.json and .md measure how near they are to it. Never publish these two."""
    test_data: str | None = None
    """Held-out labelled records, with by as their label column: a classifier is trained on the
    synthetic records and tested on these. The result is private too."""
    classifier: str | None = None
    """Checkpoint of that classifier, a folder or a hub id."""
    resume: bool = False
    """Go on with what was interrupted in output_dir, or measure records that are there."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        for name in ("run", "output_dir"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name a folder, got ''")
        self._check_unicode()
        check_at_least("num", self.num, 1)
        self._check_conditions()
        check_positive("temperature", self.temperature)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        check_at_least("max_new_tokens", self.max_new_tokens, 1)
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("max_tries", self.max_tries, 1)
        if self.seed is not None and not 0 <= self.seed < _SEEDS:
            raise ValueError(f"seed must be at least 0 and below 2**32, got {self.seed}")
        check_choice("file_format", self.file_format, get_args(FileFormat))
        self._check_test()

    def to_dict(self) -> dict[str, Any]:
        """Returns plain, JSON-ready values."""
        return dataclasses.asdict(self)

    def _check_unicode(self) -> None:
        # They are written into files, after the drawing.
        for name, value in self.to_dict().items():
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and _SURROGATE.search(text):
                    raise ValueError(f"{name} must be valid Unicode, got {text!r}")

    def _check_conditions(self) -> None:
        if self.prompts is not None and (self.by is not None or self.prompt is not None):
            other = "by" if self.by is not None else "prompt"
            raise ValueError(f"prompts names a file of whole prompts: leave out {other}, or it")
        if self.by is None:
            for name in ("values", "shares"):
                if getattr(self, name):
                    raise ValueError(
                        f"{name} has no meaning without by: name the column that the values stand "
                        "in, such as by=label"
                    )
        elif not self.by or not self.values:
            raise ValueError(
                f"by={self.by!r} needs the values that stand in this column. Give values, such as "
                "those of a public code book; dpjax does not read them off private records"
            )
        if len(set(self.values)) < len(self.values):
            twice = next(value for value in self.values if self.values.count(value) > 1)
            raise ValueError(f"values must differ, got {twice!r} twice")
        if any(not value.strip() for value in self.values):
            raise ValueError("values must not be empty, got one that is")
        self._check_shares()
        self._check_template()

    def _check_shares(self) -> None:
        if not self.shares:
            return
        if len(self.shares) != len(self.values):
            raise ValueError(
                f"shares must be as many as values, got {len(self.shares)} for "
                f"{len(self.values)} values"
            )
        for share in self.shares:
            if not (math.isfinite(share) and share > 0):
                raise ValueError(f"shares must be positive and finite, got {share}")

    def _check_template(self) -> None:
        if self.prompt is None:
            return
        if not self.prompt:
            raise ValueError("prompt must be a text, got ''. Leave it out to write whole texts")
        fields = list(dict.fromkeys(_FIELD.findall(self.prompt)))
        if self.by is None and fields:
            raise ValueError(
                f"prompt has the field {{{fields[0]}}}, which nothing fills. Give by={fields[0]} "
                "and values"
            )
        unknown = [field for field in fields if field != self.by]
        if unknown:
            raise ValueError(
                f"prompt has the field {{{unknown[0]}}}, but by={self.by} fills {{{self.by}}}."
                + did_you_mean(unknown[0], [str(self.by)])
            )
        if self.by is not None and not fields:
            raise ValueError(
                f"prompt must have {{{self.by}}} where the value belongs, got {self.prompt!r}"
            )

    def _check_test(self) -> None:
        if (self.test_data is None) != (self.classifier is None):
            given, missing = ("test_data", "classifier")
            if self.test_data is None:
                given, missing = missing, given
            raise ValueError(
                f"{given} goes with {missing}: a checkpoint is trained on the synthetic records, "
                "and tested on held-out ones. Give both, or neither"
            )
        if self.test_data is not None and len(self.values) < 2:
            raise ValueError(
                "test_data needs by and at least two values: they are the labels of the classifier "
                f"that is trained on the synthetic records, got {len(self.values)}"
            )
