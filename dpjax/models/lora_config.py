"""The options of low-rank adapters, under peft's names except for rank (r) and alpha."""

from __future__ import annotations

import re
from dataclasses import dataclass

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraConfig:
    """Which adapters a model gets (LoRA: Hu et al. 2021, arXiv:2106.09685).

    Attributes:
        rank: r of the update scaling · A B.
        alpha: the scaling is alpha / r, or alpha / √r with `use_rslora`.
        target_modules: the linear layers to adapt, by their Hugging Face names. A sequence holds
            endings, ("query", "value") or longer ones such as "attention.output.dense"; a string is
            a pattern that must match a whole name (re.fullmatch), or "all-linear": every linear
            layer except a head and a layer appended for pooling.
        use_rslora: scale by alpha / √r, with which gradients keep their size as r grows
            (Kalajdzievski 2023, arXiv:2312.03732).
        modules_to_save: endings of the names of further modules, of any kind, that are trained in
            full, as "lm_head", "embed_tokens" or "norm"; all that lies in them gets no adapter. A
            classification head is trained in full without being named.
        layers_to_transform: adapt the target modules in these layers only, counted from 0; None
            means in all. No gradient is computed below the lowest.
        freeze_a: train B only (FFA-LoRA: Sun et al. 2024, "Improving LoRA in Privacy-preserving
            Federated Learning", arXiv:2403.12313). The update is then linear in what is trained,
            so that noise in A and noise in B are not multiplied, and half as many coordinates
            get noise.
        dropout: probability with which each number that an adapter reads is replaced by zero, the
            others divided by 1 - dropout, while `drop_inputs` is in force.

    Raises:
        ValueError: for a rank or alpha that is not positive, a dropout outside [0, 1), no target,
            or a pattern that is none.
        TypeError: if modules_to_save is one string.
    """

    rank: int
    alpha: float
    target_modules: str | tuple[str, ...]
    use_rslora: bool = False
    modules_to_save: tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] | None = None
    freeze_a: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.rank, int) and self.rank > 0):
            raise ValueError(f"LoRA rank must be a positive whole number, got {self.rank!r}")
        if not self.alpha > 0:
            raise ValueError(f"LoRA alpha must be positive, got {self.alpha!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA dropout must be at least 0 and below 1, got {self.dropout!r}")
        if isinstance(self.modules_to_save, str):
            raise TypeError(
                f"modules_to_save must be a sequence of names, got the string "
                f"{self.modules_to_save!r}; for one name write ({self.modules_to_save!r},)"
            )
        for name in ("target_modules", "modules_to_save", "layers_to_transform"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                # Part of a model's structure, which must be hashable.
                object.__setattr__(self, name, tuple(value))
        if not self.target_modules:
            raise ValueError("target_modules is empty: LoRA needs at least one layer to adapt")
        if isinstance(self.target_modules, str):
            try:
                re.compile(self.target_modules)
            except re.error as error:
                raise ValueError(
                    f"target_modules {self.target_modules!r} is not a regular expression: {error}"
                ) from error

    @property
    def scaling(self) -> float:
        """What A B is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.use_rslora else self.rank)
