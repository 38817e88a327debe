"""The frozen part of a model: found by tracing, computed once, and the loss that reads it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.finetuning.setup.plan import Plan
from dpjax.finetuning.tasks.base import Loss
from dpjax.finetuning.tasks.features import Feature, FeatureRecord, Features
from dpjax.models import SplitModel
from dpjax.privatize import FrozenPart, split_frozen_part


def abstract_records(plan: Plan, axes: tuple[int, ...], length: int | None = None) -> Any:
    """Returns the shapes of records as the loss of the task reads them.

    Args:
        plan: what was asked for.
        axes: sizes of the axes before those of a record; empty for a single one.
        length: how many tokens they have; None for the greatest length.
    """
    length = plan.config.training.max_length if length is None else length
    longest = plan.train.input_ids.shape[1]

    def with_axes(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
        # An axis that is not of tokens, such as that of targets, is shorter than this.
        tokens = tuple(length if size == longest else size for size in leaf.shape[1:])
        return jax.ShapeDtypeStruct((*axes, *tokens), leaf.dtype)

    return jax.tree.map(with_axes, plan.task.batch(plan.train.take(np.zeros(1, int))))


def frozen_part_at(
    plan: Plan, loss: Loss, trainable: PyTree, frozen: PyTree, length: int
) -> FrozenPart:
    """Splits the loss of a record of so many tokens. It is traced.

    Args:
        plan: what was asked for.
        loss: of one record, as the task makes it.
        trainable: arrays or shapes; so are the others.
        frozen: the other parameters.
        length: tokens, padding included.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (trainable, frozen))
    return split_frozen_part(loss, shapes[0], abstract_records(plan, (), length), shapes[1])


def find_features(plan: Plan, model: SplitModel) -> Features | None:
    """Finds what of the loss of a run can be computed once per record; None if there is nothing.

    Args:
        plan: what was asked for.
        model: arrays or shapes.

    Raises:
        UnreadableProgramError: the program of the loss cannot be taken apart.
    """
    loss = plan.task.loss_fn(model.graphdef)
    lengths = plan.config.training.max_length, plan.config.training.max_length - 1
    longest, other = (
        frozen_part_at(plan, loss, model.trainable, model.frozen, length) for length in lengths
    )
    if not longest.features or len(longest.features) != len(other.features):
        return None
    arrays = [
        _compare(shape, shorter, lengths[0])
        for shape, shorter in zip(longest.features, other.features, strict=True)
    ]
    found = tuple(array for array in arrays if array is not None)
    if len(found) < len(arrays) or longest.reads != other.reads:
        return None
    records = jax.tree.leaves(abstract_records(plan, ()))
    reads_tokens = any(
        leaf.ndim and is_read for leaf, is_read in zip(records, longest.reads, strict=True)
    )
    has_tokens = reads_tokens or any(array.token_axes for array in found)
    return Features(found, longest.reads, lengths[0], longest.share, has_tokens)


def _compare(
    longest: jax.ShapeDtypeStruct, shorter: jax.ShapeDtypeStruct, length: int
) -> Feature | None:
    """The feature, whose shape is known for `length` tokens and one less.

    None if an axis grows by more than one with each token: it cannot be cut to fewer tokens.
    """
    if len(longest.shape) != len(shorter.shape) or longest.dtype != shorter.dtype:
        return None
    grows = [size - less for size, less in zip(longest.shape, shorter.shape, strict=True)]
    if not set(grows) <= {0, 1}:
        return None
    axes = tuple(
        (axis, longest.shape[axis] - length) for axis, by_one in enumerate(grows) if by_one
    )
    return Feature(longest.shape, np.dtype(longest.dtype), axes)


def loss_of_features(plan: Plan, features: Features, loss: Loss) -> Loss:
    """Makes the loss of a record whose features are known.

    It is the same function of the trained parameters, and so are its gradients.

    Args:
        plan: what was asked for.
        features: of what shapes they are.
        loss: of one record, as the task makes it.
    """

    def loss_of_record(trainable: PyTree, record: FeatureRecord, frozen: PyTree) -> jax.Array:
        length = features.length_of(record)
        part = frozen_part_at(plan, loss, trainable, frozen, length)
        _check(features, part, record.features, length)
        finished: jax.Array = part.finish(trainable, record.features, record.record, frozen)
        return finished

    return loss_of_record


def feature_maker(
    plan: Plan, features: Features, graphdef: Any
) -> Callable[[PyTree, PyTree, Any], tuple[jax.Array, ...]]:
    """Makes the function `(trainable, frozen, batch) -> features` of a batch of records.

    Of what is trained only the shapes count.

    Args:
        plan: what was asked for.
        features: of what shapes they are.
        graphdef: the structure of the model.
    """
    loss = plan.task.loss_fn(graphdef)

    def compute(trainable: PyTree, frozen: PyTree, batch: Any) -> tuple[jax.Array, ...]:
        length = batch.input_ids.shape[-1]
        part = frozen_part_at(plan, loss, trainable, frozen, length)
        _check(features, part, part.features, length)
        return jax.vmap(functools.partial(part.compute, frozen=frozen))(batch)

    return compute


def _check(features: Features, part: FrozenPart, given: tuple[Any, ...], length: int) -> None:
    """Raises ValueError where the loss was split in another way for this length."""
    expected = [array.shape_at(length) for array in features.arrays]
    found, given_shapes = ([array.shape for array in each] for each in (part.features, given))
    if not found == given_shapes == expected or part.reads != features.reads:
        raise ValueError(
            f"the frozen part of the model makes arrays of shapes {found} of {length} tokens, and "
            f"the record has {given_shapes}, where {expected} were expected; give "
            "compute.cache_frozen=never"
        )
