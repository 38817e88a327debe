"""Which parameters are trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from flax import nnx

from dpjax.basics.lora_config import Bias
from dpjax.basics.option_checks import did_you_mean
from dpjax.models.adapters.layers.linear import LoraParam
from dpjax.models.adapters.lora import has_lora
from dpjax.models.adapters.targets import head_modules, paths_in_model, select_saved
from dpjax.models.families import LANGUAGE_TASKS, Path
from dpjax.models.net.heads import Model, task_of
from dpjax.models.net.pooling import is_fixed
from dpjax.models.net.quantised import QuantisedParam

Kind = Literal["full", "lora", "bias", "head", "last_layers", "matching"]


@dataclass(frozen=True)
class Trainable:
    """Which parameters of a model are trained: what the class method named by `kind` describes.

    A classification head, which tuning makes, is trained with all of them but `matching`. A layer
    that was appended for pooling never is.

    Example:
        >>> Trainable.last_layers(2)
        Trainable(kind='last_layers', num_layers=2, pattern=None)
    """

    kind: Kind
    num_layers: int | None = None
    pattern: str | None = None

    def __post_init__(self) -> None:
        kinds = get_args(Kind)
        if self.kind not in kinds:
            raise ValueError(
                f"tuning must be one of {', '.join(kinds)}, got {self.kind!r}."
                + did_you_mean(str(self.kind), kinds)
            )
        given = isinstance(self.num_layers, int) and self.num_layers >= 1
        if given != (self.kind == "last_layers") or (self.num_layers is not None) != given:
            raise ValueError(
                "num_layers must be a whole number from 1 with tuning 'last_layers', and None "
                f"otherwise; got {self.num_layers!r} with {self.kind!r}"
            )
        if (self.pattern is not None) != (self.kind == "matching"):
            raise ValueError(
                "pattern is for tuning 'matching', which needs one; got "
                f"{self.pattern!r} with {self.kind!r}"
            )
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(
                f"pattern {self.pattern!r} is not a regular expression: {error}"
            ) from error

    @classmethod
    def full(cls) -> Trainable:
        """Every parameter."""
        return cls("full")

    @classmethod
    def lora(cls) -> Trainable:
        """The adapters, without a frozen A, the modules to save, and the biases that are named."""
        return cls("lora")

    @classmethod
    def bias(cls) -> Trainable:
        """Every bias, of norms too (BitFit: Ben Zaken et al. 2022, arXiv:2106.10199)."""
        return cls("bias")

    @classmethod
    def head(cls) -> Trainable:
        """The head alone: a linear probe.

        Of a language model its untied head; of one that fills in masked tokens the dense layer and
        the norm below the words of the vocabulary, which stay.
        """
        return cls("head")

    @classmethod
    def last_layers(cls, num_layers: int) -> Trainable:
        """The uppermost `num_layers` layers, and the norm and pooler above them.

        Layers must be unrolled. ValueError if num_layers is not at least 1.
        """
        return cls("last_layers", num_layers=num_layers)

    @classmethod
    def matching(cls, pattern: str) -> Trainable:
        """The parameters whose dotted path matches `pattern` as a whole (re.fullmatch), no other.

        A path is, for instance, "transformer.layers.0.mlp_norm.scale". ValueError if the pattern is
        not a regular expression.
        """
        return cls("matching", pattern=pattern)

    def paths(self, model: Model) -> frozenset[Path]:
        """The paths of the parameters that are trained.

        Raises:
            ValueError: if there are none, or the choice does not fit the presence of adapters, the
                number of layers, stacked layers, or quantised ones.
        """
        self._check_adapters(model)
        leaves = nnx.to_flat_state(nnx.state(model, nnx.Param))
        leaves = [(path, leaf) for path, leaf in leaves if not is_fixed(model.config, path)]
        is_chosen = self._chooser(model)
        chosen = {path for path, leaf in leaves if is_chosen(path, leaf)}
        if not chosen:
            raise ValueError(self._nothing(model, [path for path, _ in leaves]))
        self._check_codes(
            model, [path for path, leaf in leaves if isinstance(leaf, QuantisedParam)], chosen
        )
        if self.kind == "matching":
            return frozenset(chosen)
        return frozenset(chosen | {path for path, _ in leaves if is_head(model, path)})

    def mask(self, model: Model) -> dict[str, Any]:
        """The nested dict of the model's parameters with true where they are trained."""
        chosen = self.paths(model)
        state = nnx.to_flat_state(nnx.state(model, nnx.Param))
        return nnx.to_pure_dict(nnx.from_flat_state([(path, path in chosen) for path, _ in state]))

    def _chooser(self, model: Model) -> Callable[[Path, nnx.Variable], bool]:
        """Whether a parameter is trained for another reason than being in a classification head."""
        if self.kind == "lora":
            saved = set(paths_in_model(model, select_saved(model, model.lora.modules_to_save)))
            has_bias = _bias_chooser(model.lora.bias)
            return lambda path, leaf: (
                isinstance(leaf, LoraParam) or path[:-1] in saved or has_bias(path)
            )
        if self.kind == "bias":
            return lambda path, _: path[-1] == "bias" and not is_head(model, path)
        if self.kind == "head":
            parts = {module.path[0] for module in head_modules(model)}
            if task_of(model) == "masked_lm":
                parts -= {"decoder", "vocab_bias"}
            return lambda path, _: path[0] in parts
        if self.kind == "last_layers":
            first = self._first_layer(model)
            return lambda path, _: _is_from_layer(path, first)
        if self.kind == "matching":
            pattern = re.compile(self.pattern)
            return lambda path, _: pattern.fullmatch(_dotted(path)) is not None
        return lambda path, _: True

    def _check_adapters(self, model: Model) -> None:
        if self.kind == "lora" and not has_lora(model):
            raise ValueError("tuning 'lora' needs adapters: call add_lora first")
        if self.kind not in ("lora", "matching") and has_lora(model):
            raise ValueError(
                f"tuning {self.kind!r} trains the weights themselves, but the model has LoRA "
                "adapters: use tuning 'lora' or call merge_lora first"
            )

    def _check_codes(self, model: Model, codes: Sequence[Path], chosen: Collection[Path]) -> None:
        """Refuses to train what is held as codes, or as their scales."""
        for path in codes:
            if path in chosen:
                raise ValueError(
                    f"tuning {self.kind!r} trains {_dotted(path[:-1])}, whose weights are "
                    f"quantised ({model.config.quantise}), and codes cannot be trained: use "
                    "tuning 'lora' or 'head', or load the model with quantise=none"
                )

    def _first_layer(self, model: Model) -> int:
        config = model.config
        if config.scan_layers:
            raise ValueError(
                "the last layers of stacked ones cannot be trained alone: load the model with "
                "scan_layers=False"
            )
        present = config.num_layers - config.averaging_layer
        if self.num_layers > present:
            raise ValueError(
                f"the last {self.num_layers} layers are to be trained, but the model has "
                f"{present} that can be"
            )
        return present - self.num_layers

    def _nothing(self, model: Model, paths: Sequence[Path]) -> str:
        """Why there is nothing to train."""
        if self.kind == "bias":
            return f"this {model.config.model_type} model has no biases: nothing would be trained"
        if self.kind == "head":
            return "the head is tied to the token embedding: there is no head to train alone"
        names = [_dotted(path) for path in paths]
        return (
            f"no parameter's path matches {self.pattern!r} as a whole; the last of {len(names)} is "
            f"{names[-1]!r}." + did_you_mean(str(self.pattern), names)
        )


def is_head(model: Model, path: Sequence[str | int]) -> bool:
    """Whether the parameter at `path` belongs to the classification head, which tuning makes."""
    if task_of(model) in LANGUAGE_TASKS:
        return False
    return path[0] in {module.path[0] for module in head_modules(model)}


def _bias_chooser(bias: Bias) -> Callable[[Path], bool]:
    """Whether `LoraConfig.bias` has the parameter at a path trained."""
    if bias == "all":
        return lambda path: path[-1] == "bias"
    if bias == "lora_only":
        return lambda path: path[-2:] == ("base", "bias")
    return lambda path: False


def _is_from_layer(path: Path, first: int) -> bool:
    """Whether a parameter of the body or pooler lies in layer `first` or above."""
    if path[:2] == ("transformer", "layers"):
        return path[2] >= first
    return path[:2] == ("transformer", "norm") or path[0] == "pooler"


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))
