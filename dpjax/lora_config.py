"""The options of low-rank adapters, under peft's names except for rank (r) and alpha."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal, get_args

from dpjax.option_checks import CheckedOptions, check_choice, check_positive, check_share

Gauge = Literal["factors", "tangent"]
ALL_LINEAR = "all-linear"


@dataclasses.dataclass(frozen=True)
class LoraConfig(CheckedOptions):
    """Low-rank adapters beside frozen weights (LoRA: Hu et al. 2021, arXiv:2106.09685).

    Raises:
        ValueError: a rank or alpha that is not positive, a dropout outside [0, 1), no target, or a
            pattern that is not a regular expression.
        TypeError: modules_to_save is one string.

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
    for pooling. In Python a string is a pattern that must match a whole name."""
    use_rslora: bool = False
    """Scale by alpha / √rank instead, with which gradients keep their size as the rank grows
    (Kalajdzievski 2023, arXiv:2312.03732)."""
    modules_to_save: tuple[str, ...] = ()
    """Endings of the names of further modules, of any kind, that are trained in full, such as
    LayerNorm or lm_head; they get no adapter. A classification head is trained without being
    named."""
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
        for name in ("target_modules", "modules_to_save", "layers_to_transform"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
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
        if isinstance(self.modules_to_save, str):
            raise TypeError(
                f"lora.modules_to_save must be a sequence of names, got the string "
                f"{self.modules_to_save!r}; for one name write ({self.modules_to_save!r},)"
            )
        if not self.target_modules:
            raise ValueError(f"lora.target_modules is empty: name layers, or {ALL_LINEAR}")
        if isinstance(self.target_modules, str):
            try:
                re.compile(self.target_modules)
            except re.error as error:
                raise ValueError(
                    f"lora.target_modules={self.target_modules!r} is not a regular expression: "
                    f"{error}"
                ) from error

    @property
    def scaling(self) -> float:
        """What A · B is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.use_rslora else self.rank)
