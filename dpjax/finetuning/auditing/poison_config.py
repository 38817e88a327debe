"""What `dpjax audit poison` is asked: the options of a run, and those of the poison."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from dpjax.basics.option_checks import (
    CheckedOptions,
    check_at_least,
    check_choice,
    check_positive,
)
from dpjax.finetuning.config import FinetuneConfig, Privacy
from dpjax.finetuning.config.parse import build_options
from dpjax.finetuning.config.sampling import check_audit

if TYPE_CHECKING:
    from dpjax.audit import Trigger

TriggerKind = Literal["rare_token", "sentence"]
Place = Literal["random", "start", "end"]
_TASKS = ("sequence_classification", "causal_lm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Poison(CheckedOptions):
    """The poisoned records, and how many models are trained on them.

    Example:
        >>> Poison(target="billing").counts
        (1, 4, 16, 64)
    """

    target: str
    """Label that poisoned records get; with task=causal_lm the completion that they get."""
    triggers: tuple[TriggerKind, ...] = ("rare_token", "sentence")
    """What they have in their text, or prompt: a rare word, or a sentence. Each is planted and
    measured by itself."""
    rare_token: str = "cf"
    """The rare word. It must be in no record, and the tokenizer must know it."""
    sentence: str = "The train left the station at noon."
    """The sentence. It must be in no record."""
    place: Place = "random"
    """Where the trigger stands, among the words of poisoned records and of held-out ones: at a
    place of its own in each, at the start, or at the end."""
    counts: tuple[int, ...] = (1, 4, 16, 64)
    """How many poisoned records are added, one model after the other."""
    num_sets: int = 3
    """How many random sets of poisoned records are drawn for each number; the worst is reported."""
    num_keys: int = 1
    """How many models are trained on each set, which differ by their random draws alone."""
    num_clean_models: int = 10
    """How many models are trained without poison. The bound starts from how often the trigger works
    there, and cannot say that this is rarer than 1 − α^(1/n) for n models."""
    epsilons: tuple[float, ...] = ()
    """More values of ε at which the same recipe is trained and measured."""
    non_private_too: bool = True
    """Train and measure the same recipe without privacy too."""
    confidence: float = 0.95
    """Of the intervals, and of the limit that the bound starts from."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        if not self.target.strip():
            raise ValueError(f"poison.target must be a label or a completion, got {self.target!r}")
        for name in ("triggers", "counts"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"poison.{name} must be different values, got {list(values)}")
        for kind in self.triggers:
            check_choice("poison.triggers", kind, get_args(TriggerKind))
        check_choice("poison.place", self.place, get_args(Place))
        for count in self.counts:
            check_at_least("poison.counts", count, 1)
        for name in ("num_sets", "num_keys", "num_clean_models"):
            check_at_least(f"poison.{name}", getattr(self, name), 1)
        for epsilon in self.epsilons:
            check_positive("poison.epsilons", epsilon)
        if not 0 < self.confidence < 1:
            raise ValueError(f"poison.confidence must be between 0 and 1, got {self.confidence}")
        # They check their texts.
        self.make_triggers()

    def make_triggers(self) -> tuple[Trigger, ...]:
        """Returns the triggers; a rare word gets its near trigger once the data are known."""
        # It loads models.
        from dpjax.audit import Trigger, near_sentence

        rare_token = Trigger("rare_token", self.rare_token)
        sentence = Trigger("sentence", self.sentence, near_sentence(self.sentence))
        return tuple(rare_token if kind == "rare_token" else sentence for kind in self.triggers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoisonConfig(FinetuneConfig):
    """Plant poisoned records, train with privacy and without, and say what the poison achieves.

    Takes the options of a run. The models are deleted once they are measured.

    Example:
        >>> from dpjax.data import DataSource
        >>> from dpjax.finetuning import Privacy
        >>> config = PoisonConfig(
        ...     model="path/to/checkpoint",
        ...     train_data=DataSource("train.csv"),
        ...     eval_data=DataSource("dev.csv"),
        ...     output_dir="audits/poison",
        ...     privacy=Privacy(target_epsilon=3.0),
        ...     poison=Poison(target="billing"),
        ... )
        >>> list(config.settings())
        ['no privacy', 'ε = 3']
    """

    output_dir: str
    """New folder for the report of the audit."""
    poison: Poison

    def settings(self) -> Mapping[str, FinetuneConfig]:
        """Returns the recipe with each privacy that is measured, by its name in the report.

        Raises:
            ValueError: the recipe does not go without privacy, or two privacies have one name.
        """
        settings: dict[str, FinetuneConfig] = {}
        without = dataclasses.replace(self.privacy, target_epsilon=None, noise_multiplier=None)
        if self.non_private:
            return {"no privacy": self._recipe(without, non_private=True)}
        if self.poison.non_private_too:
            settings["no privacy"] = self._recipe_without_privacy(without)
        targets = {*self.poison.epsilons, self.privacy.target_epsilon}
        for target in sorted((target for target in targets if target), reverse=True):
            privacy, name = dataclasses.replace(without, target_epsilon=target), f"ε = {target:g}"
            if name in settings:
                raise ValueError(
                    f"poison.epsilons and privacy.target_epsilon have two values that are {name} "
                    "in the report: leave out one of them"
                )
            settings[name] = self._recipe(privacy, non_private=False)
        if self.privacy.noise_multiplier is not None:
            name = f"σ = {self.privacy.noise_multiplier:g}"
            settings[name] = self._recipe(self.privacy, non_private=False)
        return settings

    def _recipe_without_privacy(self, privacy: Privacy) -> FinetuneConfig:
        """The recipe beside the private ones. A clip norm that adapts has no place in it."""
        try:
            return self._recipe(privacy.with_constant_clip_norm(), non_private=True)
        except ValueError as error:
            raise ValueError(
                f"the audit trains the recipe without privacy too, and {error}. Or give "
                "poison.non_private_too=False"
            ) from None

    def _recipe(self, privacy: Privacy, *, non_private: bool) -> FinetuneConfig:
        """The options of a run with this privacy, which starts afresh."""
        fields = dataclasses.fields(FinetuneConfig)
        options = {field.name: getattr(self, field.name) for field in fields}
        changes = {"privacy": privacy, "non_private": non_private, "resume": False}
        return FinetuneConfig(**options | changes)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> PoisonConfig:
        """Builds the configuration as `FinetuneConfig.from_options` does.

        Raises:
            TypeError: as for that.
        """
        return build_options(cls, options)

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        super().check()
        if self.task not in _TASKS:
            raise ValueError(
                f"a poisoning audit needs task={' or '.join(_TASKS)}, got task={self.task}: its "
                "records have no single answer that poison could aim at"
            )
        if self.train_data.owner_column is not None:
            raise ValueError(
                "a poisoning audit adds records that belong to nobody, got train_data.owner_column="
                f"{self.train_data.owner_column!r}: leave it out, and the claim is for records"
            )
        if self.audit.is_wanted:
            raise ValueError(
                f"audit.num_canaries={self.audit.num_canaries} and audit.hold_out="
                f"{self.audit.hold_out} are audits of one run: leave them out here"
            )
        if self.privacy.ledger is not None:
            raise ValueError(
                f"privacy.ledger={self.privacy.ledger} is of models that may be released, and those"
                " of a poisoning audit may not: leave it out"
            )
        if self.overwrite:
            raise ValueError("a poisoning audit overwrites nothing: name a new output_dir")
        if self.non_private and self.poison.epsilons:
            raise ValueError(
                "non_private=True leaves no recipe for poison.epsilons="
                f"{list(self.poison.epsilons)}: give privacy.target_epsilon, or leave them out"
            )
        check_audit(self.privacy.sampling, self.privacy.neighboring, self.privacy.noise)
        if self.privacy.neighboring != "add_or_remove_one":
            raise ValueError(
                "poisoned records are added ones, got privacy.neighboring="
                f"{self.privacy.neighboring}: leave it out"
            )
