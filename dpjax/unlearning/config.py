"""What `dpjax unlearn` is asked to do."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from dpjax.basics.option_checks import (
    CheckedOptions,
    check_at_least,
    check_choice,
    check_positive,
)
from dpjax.unlearning.certified.options import Certified

MethodName = Literal["grad_ascent", "grad_diff", "npo", "simnpo", "undial", "rmu", "noisy_descent"]
_NUM_EPOCHS = 10.0

# Options that only some methods read, with the default of each.
_OF_METHODS: dict[str, dict[str, float | None]] = {
    "beta": {"npo": 0.1, "simnpo": 2.5},
    "margin": {"simnpo": 0.0},
    "strength": {"undial": 10.0},
    "steering": {"rmu": 2.0},
    "layer": {"rmu": None},
    "retain_weight": {"grad_diff": 1.0, "npo": 1.0, "simnpo": 1.0, "undial": 0.0, "rmu": 1.0},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnlearnConfig(CheckedOptions):
    """Make a tuned decoder forget some of its training records, and measure what is left of them.

    Example:
        >>> config = UnlearnConfig(run="runs/first", forget="erase.jsonl", output_dir="unlearned")
        >>> config.method, config.resolved("beta")
        ('npo', 0.1)
    """

    run: str
    """Folder of a finished run with task=causal_lm and tuning=lora. Its data files must be there.
    """
    output_dir: str
    """New folder for the adapter that has unlearned and the report. All of it is private."""
    forget: str | None = None
    """File with the records to forget, in the columns of the run's training data. Each must be a
    training record, word for word; all copies of it are forgotten."""
    forget_rows: tuple[int, ...] = ()
    """Instead of a file: the numbers of the records in the training data, from 0."""
    forget_owners: tuple[str, ...] = ()
    """Instead of a file: the owners whose records are all forgotten, as the run's owner column
    names them."""
    method: MethodName = "npo"
    """How the adapter is changed: docs/unlearning.md has the formula of each. grad_ascent is there
    to compare with: it destroys the model. noisy_descent alone proves what it forgets, by the
    options in certified."""
    num_epochs: float | None = None
    """Passes over the forget set; default: 10. noisy_descent has certified.num_steps instead."""
    batch_size: int = 8
    """Records of the forget set in a step, and as many that are retained; with noisy_descent the
    latter alone."""
    learning_rate: float = 1e-3
    """Of Adam, constant; with noisy_descent of relearning alone."""
    beta: float | None = None
    """With npo or simnpo, how soon a record counts as forgotten; default: 0.1 and 2.5."""
    margin: float | None = None
    """With simnpo, the reward margin, at least 0; default: 0."""
    strength: float | None = None
    """With undial, how far the logit of a token to forget is lowered; default: 10."""
    steering: float | None = None
    """With rmu, the norm of the hidden states that forget records are steered to; default: 2."""
    layer: int | None = None
    """With rmu, after how many layers hidden states are compared; default: half of them."""
    retain_weight: float | None = None
    """Weight of the loss on retained records; default: 1, with undial 0. grad_ascent has none."""
    baseline: bool = True
    """Train once more without the forget set, with the options of the run, and compare with that:
    it is what unlearning should come to."""
    measured_records: int = 200
    """At most so many retained and so many held-out records are measured."""
    truth_ratio: str | None = None
    """File of JSON lines with prompt, of a record to forget; paraphrase, its answer in other words;
    and perturbed, a list of wrong answers in the form of the paraphrase. With it the truth ratio is
    measured."""
    relearn_steps: int = 20
    """After so many steps of tuning on the forget set its loss is measured once more: a record that
    is merely hidden comes back at once."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = 0
    """Of the order of records, and of the direction of rmu. It need not be secret; no seed gives
    the noise of noisy_descent."""
    resume: bool = False
    """Go on with an unlearning that was stopped, in its folder. The other options must be those
    that it was started with."""
    certified: Certified = dataclasses.field(default_factory=Certified)

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        for name in ("run", "output_dir"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name a folder, got ''")
        self._check_forget_set()
        check_choice("method", self.method, get_args(MethodName))
        for name, methods in _OF_METHODS.items():
            if getattr(self, name) is not None and self.method not in methods:
                raise ValueError(
                    f"{name} is for method={' or '.join(methods)}, got method={self.method}. Leave "
                    "it out"
                )
        for name in ("num_epochs", "learning_rate", "beta", "strength", "steering"):
            check_positive(name, getattr(self, name))
        self._check_certified()
        for name in ("batch_size", "layer", "relearn_steps"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("measured_records", self.measured_records, 2)
        for name in ("margin", "retain_weight"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be above 0 and below 1, got {self.confidence}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be at least 0 and below 2**32, got {self.seed}")

    @property
    def num_passes(self) -> float:
        """Passes over the forget set, or the default where they were left out."""
        return _NUM_EPOCHS if self.num_epochs is None else self.num_epochs

    @property
    def is_certified(self) -> bool:
        """Whether the method proves what it forgets."""
        return self.method == "noisy_descent"

    def resolved(self, name: str) -> float | None:
        """Returns an option of the method, or the method's default where it was left out.

        Raises:
            KeyError: the method has no such option.
        """
        value: float | None = getattr(self, name)
        return _OF_METHODS[name][self.method] if value is None else value

    def method_options(self) -> dict[str, float | None]:
        """Returns all options of the method, by name."""
        names = [name for name, methods in _OF_METHODS.items() if self.method in methods]
        return {name: self.resolved(name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Returns plain, JSON-ready values."""
        return dataclasses.asdict(self)

    def _check_certified(self) -> None:
        if self.is_certified:
            self.certified.check_complete()
            if self.num_epochs is not None:
                raise ValueError(
                    "num_epochs counts passes over the forget set, which noisy_descent does not "
                    f"read, got {self.num_epochs:g}: give certified.num_steps instead"
                )
        elif self.certified != Certified():
            raise ValueError(
                f"options in certified are for method=noisy_descent, got method={self.method}: "
                "leave them out"
            )

    def _check_forget_set(self) -> None:
        given = [name for name in ("forget", "forget_rows", "forget_owners") if getattr(self, name)]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(
                "the records to forget must be named by one of forget, forget_rows and "
                f"forget_owners, got {found}"
            )
        for row in self.forget_rows:
            if row < 0:
                raise ValueError(f"forget_rows must be at least 0, got {row}")
