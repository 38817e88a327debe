"""Models of shapes alone: what can be known of a checkpoint before its weights are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.basics.lora_config import LoraConfig
from dpjax.models.adapters.lora import add_lora
from dpjax.models.checkpoint.config_json import parse_config
from dpjax.models.checkpoint.files import read_config_json
from dpjax.models.checkpoint.fill import Loading, SameKey
from dpjax.models.checkpoint.load import shortened, with_features
from dpjax.models.checkpoint.pooling_choice import resolve_pooling
from dpjax.models.config import TransformerConfig
from dpjax.models.families import LANGUAGE_TASKS, Task, family_of
from dpjax.models.net.heads import CausalLM, MaskedLM, Model, SequenceClassifier, TokenClassifier
from dpjax.models.net.pooling import Pooling, append_mean_pooling
from dpjax.models.net.quantised import QuantisedParam

_DEFAULT = Loading()


def abstract_model(
    folder: str | Path,
    task: Task,
    *,
    num_labels: int | None = None,
    pooling: Pooling = "auto",
    num_layers: int | None = None,
    feature_layers: Sequence[int] = (),
    lora: LoraConfig | None = None,
    loading: Loading = _DEFAULT,
) -> Model:
    """Makes the model that a checkpoint's config.json describes, of shapes and dtypes alone.

    No weights are read, and none have to be there: each parameter is a `jax.ShapeDtypeStruct`.
    `split_trainable` splits the model, and `jax.jit(step).lower(...)` takes its parts. A language
    model's head is tied where config.json says so; loading the weights may find that it is not.

    Args:
        folder: the checkpoint, of which config.json is read.
        task: which head the model has.
        num_labels: of a classifier; None for a language model.
        pooling: as for `load_classifier`.
        num_layers: as for `load_classifier`.
        feature_layers: as for `load_classifier`.
        lora: adapters to put on it, as `add_lora` does; None for none.
        loading: dtypes, attention, loops over layers; its placement is not read.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: the family or a switch is not supported, the family has no head for the task, or
            `num_labels` is missing or below 2; or as `load_classifier` and `add_lora`.

    Example:
        >>> from dpjax.models import Trainable, split_trainable
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("shapes")
        >>> model = abstract_model("shapes", "causal_lm", lora=LoraConfig(rank=2))
        >>> split_trainable(model, Trainable.lora()).describe_share()
        '256 of 411,392 parameters trained (0.0622 %)'
    """
    folder = Path(folder)
    raw = read_config_json(folder)
    family = family_of(raw["model_type"])
    family.head(task)
    config = with_features(shortened(parse_config(raw), num_layers), feature_layers)
    config = loading.apply_to(config)
    make = _maker(task, config, num_labels)
    is_pooled = task == "sequence_classification" and not config.feature_layers
    averages = is_pooled and resolve_pooling(folder, pooling) == "mean"

    def build() -> Model:
        model = _with_param_dtype(make(rngs=SameKey()), loading)
        if averages:
            model = append_mean_pooling(model)
        if lora is not None:
            add_lora(model, lora, key=jax.random.key(0))
        return model

    return nnx.eval_shape(build)


def _maker(task: Task, config: TransformerConfig, num_labels: int | None) -> Callable[..., Model]:
    if task in LANGUAGE_TASKS:
        if num_labels is not None:
            raise ValueError(f"num_labels is for classifiers, got {num_labels}. Leave it out.")
        language = CausalLM if task == "causal_lm" else MaskedLM
        return lambda rngs: language(config, rngs=rngs)
    if num_labels is None or num_labels < 2:
        raise ValueError(f"num_labels must be at least 2 for a classifier, got {num_labels}.")
    kind = SequenceClassifier if task == "sequence_classification" else TokenClassifier
    return lambda rngs: kind(config, num_labels=num_labels, rngs=rngs)


def _with_param_dtype(model: Model, loading: Loading) -> Model:
    graphdef, codes, others = nnx.split(model, QuantisedParam, ...)
    dtype = jnp.dtype(loading.param_dtype)
    return nnx.merge(graphdef, codes, jax.tree.map(lambda leaf: leaf.astype(dtype), others))
