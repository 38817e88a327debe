"""The options of low-rank adapters, under peft's names except for rank (r) and alpha."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar, get_args

from dpjax.basics.option_checks import CheckedOptions, check_choice, check_positive, check_share

Gauge = Literal["factors", "tangent"]
ALL_LINEAR = "all-linear"
Bias = Literal["none", "all", "lora_only"]
# How several adapters are merged into one.
Combination = Literal["svd", "cat", "linear"]
Number = TypeVar("Number", int, float)
_SEQUENCES = (
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
)


@dataclasses.dataclass(frozen=True)
class LoraConfig(CheckedOptions):
    """Low-rank adapters beside frozen weights (LoRA: Hu et al. 2021, arXiv:2106.09685).

    Raises:
        ValueError: a rank or alpha that is not positive, a dropout outside [0, 1), no target, a
            pattern that is not a regular expression, or one without a value.
        TypeError: a list of names is one string, or a pattern of ranks a mapping.

    Example:
        >>> LoraConfig(rank=4, target_modules=("q_proj", "v_proj")).alpha
        16.0
    """

    rank: int = 8
    """Rank r of the update scaling · A · B."""
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    # A tuple comes first: what the command line gives is one, also a single name.
    target_modules: tuple[str, ...] | str = ALL_LINEAR
    """Hugging Face names of the linear layers to adapt, or their endings, such as query or
    attention.output.dense; all-linear means every linear layer except a head and a layer appended
    for pooling. Embeddings and a language model's own head get one where they are named. In Python
    a string is a pattern that must match a whole name."""
    exclude_modules: tuple[str, ...] | str = ()
    """Names, or endings of names, of layers that target_modules means and that get no adapter. In
    Python a string is a pattern that must match a whole name."""
    rank_pattern: tuple[str, ...] = ()
    """Ranks of single layers in the place of rank, as "name=rank", such as down_proj=4. The name is
    the ending of a layer's name, or a regular expression for it; the first that fits counts."""
    alpha_pattern: tuple[str, ...] = ()
    """Alphas of single layers in the place of alpha, as "name=alpha"; names as in rank_pattern."""
    use_dora: bool = False
    """Train the length of each column of a weight beside its direction (DoRA: Liu et al. 2024,
    arXiv:2402.09353): one number more for each output of an adapted layer."""
    bias: Bias = "none"
    """Biases that are trained in full: none, those of the adapted layers (lora_only), or all of the
    model, of norms too. Taking the adapters off does not undo them."""
    use_rslora: bool = False
    """Scale by alpha / √rank instead, with which gradients keep their size as the rank grows
    (Kalajdzievski 2023, arXiv:2312.03732)."""
    modules_to_save: tuple[str, ...] = ()
    """Endings of the names of further modules, of any kind, that are trained in full, such as
    LayerNorm or lm_head; they get no adapter. A classification head is trained without being
    named."""
    trainable_token_indices: tuple[int, ...] = ()
    """Numbers of tokens whose rows of the token embedding are trained in full, such as tokens that
    were added for a dialogue; rows of a tied head too."""
    layers_to_transform: tuple[int, ...] | None = None
    """Layers to adapt, counted from 0; default: all. Adapting the upper ones only is faster,
    because no gradient is computed below the lowest."""
    freeze_a: bool = False
    """Train B only (FFA-LoRA: Sun et al. 2024, arXiv:2403.12313): half as many parameters get
    noise, and the update is linear in them."""
    dropout: float = 0.0
    """Probability with which a number that an adapter reads is replaced by zero; each step and
    record draws its own."""
    start_a: Literal["random", "principal"] = "random"
    """Where `finetune` starts A: at random, or at the principal components of the layer's inputs
    for texts of random words. Those see how texts differ and not what all have in common: less of
    the clip norm and of the noise is wasted. No private record is read, which costs no ε."""

    gauge: Gauge = "factors"
    """What is clipped and gets noise: the gradients of A and B, or the change of their product A B,
    which does not depend on how it is split into A and B (the mechanism of PRISM: Wang and Zhang
    2026, arXiv:2606.00944)."""

    def __post_init__(self) -> None:
        for name in _SEQUENCES:
            value = getattr(self, name)
            if value is not None and not isinstance(value, (str, Mapping)):
                # Part of a model's structure, which must be hashable.
                object.__setattr__(self, name, tuple(value))
        if self.target_modules == (ALL_LINEAR,):
            object.__setattr__(self, "target_modules", ALL_LINEAR)
        super().__post_init__()

    def check(self) -> None:
        """Raises ValueError if a value does not fit, TypeError if a list of names is a string."""
        if not (isinstance(self.rank, int) and self.rank >= 1):
            raise ValueError(f"lora.rank must be a whole number of at least 1, got {self.rank!r}")
        check_positive("lora.alpha", self.alpha)
        check_share("lora.dropout", self.dropout)
        check_choice("lora.start_a", self.start_a, ("random", "principal"))
        check_choice("lora.gauge", self.gauge, get_args(Gauge))
        if self.gauge == "tangent" and self.freeze_a:
            raise ValueError(
                "lora.freeze_a=True leaves no choice between A and B: leave out lora.gauge=tangent,"
                " or lora.freeze_a"
            )
        if self.gauge == "tangent" and self.use_dora:
            raise ValueError(
                "lora.use_dora=True makes the weight of more than W + A B, and lora.gauge=tangent "
                "knows that alone: leave out one of them"
            )
        check_choice("lora.bias", self.bias, get_args(Bias))
        for name in ("modules_to_save", "rank_pattern", "alpha_pattern"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise TypeError(
                    f"lora.{name} must be a sequence of names, got the string {value!r}; for one "
                    f"name write ({value!r},)"
                )
        if not self.target_modules:
            raise ValueError(f"lora.target_modules is empty: name layers, or {ALL_LINEAR}")
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), str):
                _check_expression(f"lora.{name}={getattr(self, name)!r}", getattr(self, name))
        tokens = self.trainable_token_indices
        if len(set(tokens)) != len(tokens) or any(token < 0 for token in tokens):
            raise ValueError(
                f"lora.trainable_token_indices must be different numbers from 0, got {list(tokens)}"
            )
        _parse_pattern("rank_pattern", self.rank_pattern, int)
        _parse_pattern("alpha_pattern", self.alpha_pattern, _alpha)

    @property
    def trains_weights(self) -> bool:
        """Whether weights of the base are trained beside the adapters."""
        return bool(self.modules_to_save) or self.bias != "none"

    @property
    def scaling(self) -> float:
        """What A · B is multiplied by where no pattern says otherwise."""
        return self._scaling(self.alpha, self.rank)

    def ranks(self) -> dict[str, int]:
        """Returns the ranks of `rank_pattern` by name."""
        return _parse_pattern("rank_pattern", self.rank_pattern, int)

    def alphas(self) -> dict[str, float]:
        """Returns the alphas of `alpha_pattern` by name."""
        return _parse_pattern("alpha_pattern", self.alpha_pattern, _alpha)

    def rank_of(self, name: str) -> int:
        """Returns the rank for a layer, given its Hugging Face name."""
        return next((r for key, r in self.ranks().items() if pattern_fits(key, name)), self.rank)

    def alpha_of(self, name: str) -> float:
        """Returns the alpha for a layer, given its Hugging Face name."""
        return next((a for key, a in self.alphas().items() if pattern_fits(key, name)), self.alpha)

    def scaling_of(self, name: str) -> float:
        """Returns what a layer's A · B is multiplied by, given its Hugging Face name."""
        return self._scaling(self.alpha_of(name), self.rank_of(name))

    def _scaling(self, alpha: float, rank: int) -> float:
        return alpha / (rank**0.5 if self.use_rslora else rank)


def pattern_fits(key: str, name: str) -> bool:
    """Whether a name of `rank_pattern` or `alpha_pattern` means the layer, as peft decides it."""
    return re.match(rf"(.*\.)?({key})$", name) is not None


def _alpha(text: str) -> float:
    """The number, an int where it is whole: so peft writes it."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _parse_pattern(
    option: str, items: Sequence[str], number: Callable[[str], Number]
) -> dict[str, Number]:
    """The values of a pattern by name; ValueError for what is not name=value."""
    what = "rank" if number is int else "alpha"
    if isinstance(items, Mapping):
        example = tuple(f"{key}={value}" for key, value in items.items())
        raise TypeError(f"lora.{option} must be a sequence of name={what}: write {example!r}")
    values: dict[str, Number] = {}
    for item in items:
        # A regular expression may have a sign of equality, a number has none.
        name, _, text = item.rpartition("=")
        if not name.strip():
            raise ValueError(
                f"lora.{option} has {item!r}: give each as name={what}, such as down_proj=4"
            )
        try:
            value = number(text)
        except ValueError:
            kind = "a whole number" if number is int else "a number"
            raise ValueError(
                f"lora.{option} has {item!r}: its {what} must be {kind}, got {text.strip()!r}"
            ) from None
        check_positive(f"lora.{option}: the {what} of {name.strip()!r}", value)
        _check_expression(f"lora.{option}: the name {name.strip()!r}", name.strip())
        if name.strip() in values:
            raise ValueError(f"lora.{option} has {name.strip()!r} twice: give it one {what}")
        values[name.strip()] = value
    return values


def _check_expression(what: str, expression: str) -> None:
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{what} is not a regular expression: {error}") from error
