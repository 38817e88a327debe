"""What a model family is: how to read its config.json, and what its weights are called.

The names are read in both directions: by the loader and LoRA from Hugging Face names to our
modules, by the saver back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dpjax.models.config import TransformerConfig
from dpjax.models.families.modules import Part, body_parts

Path = tuple[str | int, ...]
Task = Literal["causal_lm", "masked_lm", "sequence_classification", "token_classification"]
TASKS: tuple[Task, ...] = get_args(Task)
# Their heads hold the words of the vocabulary: pretraining makes them, tuning does not.
LANGUAGE_TASKS: tuple[Task, ...] = ("causal_lm", "masked_lm")


@dataclass(frozen=True)
class ModuleName:
    """One module: its path in our model, its path in transformers, what it is."""

    path: Path
    hf_name: str
    kind: Literal["linear", "conv1d", "norm", "embedding", "expert", "bias", "centre"]
    has_bias: bool

    def weights(self) -> Iterator[WeightName]:
        """The tensors of the module."""
        if self.kind == "centre":
            yield WeightName((*self.path, "centre"), f"{self.hf_name}.centre", False)
            return
        if self.kind == "bias":
            yield WeightName(self.path, f"{self.hf_name}.bias", False)
            return
        ours = {"norm": "scale", "embedding": "embedding"}.get(self.kind, "kernel")
        is_transposed = self.kind in ("linear", "expert")
        # torch keeps linear weights as (out, in); GPT-2's Conv1D and Flax as (in, out).
        yield WeightName((*self.path, ours), f"{self.hf_name}.weight", is_transposed)
        if self.has_bias:
            yield WeightName((*self.path, "bias"), f"{self.hf_name}.bias", False)


@dataclass(frozen=True)
class WeightName:
    """One tensor: its path in the nested dict of parameters, its checkpoint name, its layout."""

    path: Path
    hf_name: str
    transposed: bool


@dataclass(frozen=True)
class Head:
    """The head for one task.

    Attributes:
        architecture: transformers' class.
        layers: `(our path, its name, has a bias)` of each dense layer, the one that gives the
            logits last.
        norm: `(our path, its name)` of the norm below the last layer, or None.
        vocab_bias: its name of the module whose bias is added to the logits of the vocabulary, or
            None. It is `vocab_bias` of our model.
    """

    architecture: str
    layers: tuple[tuple[str, str, bool], ...]
    norm: tuple[str, str] | None = None
    vocab_bias: str | None = None

    @property
    def module_names(self) -> set[str]:
        """Transformers' names of all its modules."""
        norms = () if self.norm is None else (self.norm[1],)
        return {theirs for _, theirs, _ in self.layers} | {*norms, self.vocab_bias or ""} - {""}


@dataclass(frozen=True)
class Family:
    """A model family of transformers.

    Attributes:
        read_config: from transformers' configuration object, defaults filled in.
        names: our dotted module paths to transformers' ones, {} standing for a layer's number, a
            second one for an expert's.
        heads: by task.
        base_prefix: starts the names of everything below the head and is missing in checkpoints of
            the bare model.
        conv1d: whether the layers' linear maps are stored as (in, out).
        renamed: old endings of weight names to present ones.
        ignored: pattern of the names (without prefix) of buffers and of heads that are not ours.
        moved: old beginnings of weight names to present ones.
        left_out: pattern of the names of tensors beside the text model, which are not read.
        text_families: of a model that has a text model inside: what that may be, as which a tuned
            model is saved; empty for a family of texts alone.
    """

    read_config: Callable[[Any], TransformerConfig]
    names: Mapping[str, str]
    heads: Mapping[Task, Head]
    base_prefix: str
    conv1d: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    ignored: str = ""
    moved: Mapping[str, str] = field(default_factory=dict)
    left_out: str = ""
    text_families: tuple[str, ...] = ()

    def head(self, task: Task) -> Head:
        """The head for a task; ValueError if transformers has none for this family."""
        if task not in self.heads:
            raise ValueError(
                f"a model of this family has no head for {task.replace('_', ' ')}; it has one for "
                f"{', '.join(name.replace('_', ' ') for name in self.heads)}"
            )
        return self.heads[task]

    def modules(self, config: TransformerConfig, task: Task) -> tuple[ModuleName, ...]:
        """Every module that has parameters, those of the head last."""
        return (*self.body_modules(config), *self.head_modules(config, task))

    def body_modules(self, config: TransformerConfig) -> Iterator[ModuleName]:
        """The modules below the head, which checkpoints of every task have."""
        for part in body_parts(config):
            yield self._named(part)

    def head_modules(self, config: TransformerConfig, task: Task) -> Iterator[ModuleName]:
        """The modules of the head, without one that is tied to the token embedding."""
        head = self.head(task)
        is_tied = task in LANGUAGE_TASKS and config.tied_head
        layers = head.layers[:-1] if is_tied else head.layers
        if task == "sequence_classification" and config.feature_layers:
            yield ModuleName(("features",), f"{self.base_prefix}dpjax_features", "centre", False)
            layers = tuple((ours, theirs, False) for ours, theirs, _ in layers[-1:])
        for ours, theirs, has_bias in layers:
            yield ModuleName((ours,), theirs, "linear", has_bias)
        if head.norm is not None:
            yield ModuleName((head.norm[0],), head.norm[1], "norm", True)
        if head.vocab_bias is not None:
            yield ModuleName(("vocab_bias",), head.vocab_bias, "bias", True)

    def _named(self, part: Part) -> ModuleName:
        numbers = [name for name in part.path if isinstance(name, int)]
        ours = ".".join(name for name in part.path if isinstance(name, str))
        kind = "conv1d" if part.kind == "linear" and self.conv1d else part.kind
        path = ("transformer", *part.path)
        return ModuleName(path, self.names[ours].format(*numbers), kind, part.has_bias)

    def weight_names(self, config: TransformerConfig, task: Task) -> tuple[WeightName, ...]:
        """Every tensor of a checkpoint of this family for a task."""
        modules = self.modules(config, task)
        return tuple(weight for module in modules for weight in module.weights())

    def table_name(self, name: str, task: Task) -> str | None:
        """The name in the table for a name found in a checkpoint; None for ignored tensors."""
        if self.is_left_out(name):
            return None
        for old, new in self.moved.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name
        for old, new in self.renamed.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        bare = name.removeprefix(self.base_prefix)
        # A head may lie below the prefix, as the pooler of BERT does.
        for full in (name, self.base_prefix + bare):
            if self._is_of_head(full, task):
                return full
            if any(self._is_of_head(full, other) for other in self.heads):
                return None
        if self.ignored and re.fullmatch(self.ignored, bare):
            return None
        return self.base_prefix + bare

    def is_left_out(self, name: str) -> bool:
        """Whether a tensor belongs to a part of the checkpoint that is no text model."""
        return bool(self.left_out) and re.fullmatch(self.left_out, name) is not None

    def _is_of_head(self, name: str, task: Task) -> bool:
        module, _, kind = name.rpartition(".")
        return kind in ("weight", "bias") and module in self.head(task).module_names
