"""A model in three parts: its structure, the parameters that are trained, and the others."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.models.adapters.trainable import Trainable
from dpjax.models.net.heads import Model
from dpjax.models.net.quantised import quantised_layers


class SplitModel(NamedTuple):
    """A model whose trained parameters are apart from the others.

    Attributes:
        graphdef: the structure; `nnx.merge(graphdef, trainable, frozen)` is the model, also inside
            jax.jit, vmap and grad.
        trainable: nested dict of the arrays that are trained, in float32.
        frozen: nested dict of the other arrays, in their dtype.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> graphdef, trainable, frozen = split_trainable(model, Trainable.bias())
        >>> list(trainable["transformer"]["norm"]), list(frozen["transformer"]["norm"])
        (['bias'], ['scale'])
        >>> type(nnx.merge(graphdef, trainable, frozen)).__name__
        'CausalLM'
    """

    graphdef: Any
    trainable: dict[str, Any]
    frozen: dict[str, Any]

    def merge(self) -> Model:
        """Puts the model together."""
        return nnx.merge(self.graphdef, self.trainable, self.frozen)

    def replace(self, *, trainable: dict[str, Any]) -> SplitModel:
        """Returns the model with other trained parameters of the same structure."""
        return self._replace(trainable=trainable)

    def training_only(self, parts: Collection[str]) -> SplitModel:
        """Returns the model with what is trained of these parts alone; the rest is frozen.

        Args:
            parts: names of the uppermost level, such as "classifier".
        """
        kept = {name: part for name, part in self.trainable.items() if name in parts}
        others = {name: part for name, part in self.trainable.items() if name not in parts}
        return self._replace(trainable=kept, frozen=_joined(self.frozen, others))

    @property
    def num_frozen(self) -> int:
        """How many parameters are not trained; weights that are quantised count one by one."""
        count = count_parameters(self.frozen)
        for layer in quantised_layers(self.merge()).values():
            count += math.prod(layer.kernel_shape) - layer.codes.size - layer.scales.size
        return count

    def describe_share(self) -> str:
        """Says how much is trained: "x of y parameters trained (z %)"."""
        num_trained = count_parameters(self.trainable)
        num_all = num_trained + self.num_frozen
        share = 100 * num_trained / num_all
        return f"{num_trained:,} of {num_all:,} parameters trained ({share:.3g} %)"


def _joined(one: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
    """The nested dict that has the arrays of both, which have none in common."""
    joined = dict(one)
    for name, part in other.items():
        joined[name] = _joined(joined[name], part) if name in joined else part
    return joined


def split_trainable(model: Model, trainable: Trainable) -> SplitModel:
    """Splits a model into its structure, the parameters that are trained, and the others.

    Trained parameters become float32: a small update would be rounded away in a shorter format.
    An abstract model, such as `abstract_model` makes, is split into `jax.ShapeDtypeStruct`s.

    Raises:
        ValueError: nothing would be trained, or what is asked for does not fit the model.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> split = split_trainable(model, Trainable.bias())
        >>> count_parameters(split.trainable), count_parameters(split.frozen)
        (96, 411040)
    """
    chosen = trainable.paths(model)
    graphdef, trained, frozen = nnx.split(model, lambda path, _: tuple(path) in chosen, ...)
    in_float32 = jax.tree.map(_in_float32, nnx.to_pure_dict(trained))
    return SplitModel(graphdef, in_float32, nnx.to_pure_dict(frozen))


def _in_float32(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=jnp.float32)
    return leaf.astype(jnp.float32)


def count_parameters(tree: Any) -> int:
    """Counts the scalars in a pytree of arrays.

    Example:
        >>> import numpy as np
        >>> count_parameters({"kernel": np.zeros((2, 3)), "bias": np.zeros(3)})
        9
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
