"""Steps of Adam on pairs of records: one to forget, one that is retained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.data import LanguageDataset
from dpjax.models import SplitModel
from dpjax.training import RunDiverged
from dpjax.unlearning.losses.objective import Loss, TokenRecord
from dpjax.unlearning.steps.stored_steps import StoredSteps, repeat


class Steps(NamedTuple):
    """How many steps, of what size, in which order.

    Attributes:
        num_steps: of Adam.
        batch_size: records of each kind in a step; fewer where there are fewer.
        learning_rate: constant.
        seed: of the order of both kinds.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    seed: int


def descend(
    model: SplitModel,
    loss: Loss,
    forget: LanguageDataset,
    retain: LanguageDataset,
    steps: Steps,
    *,
    reference_log_probs: np.ndarray | None = None,
    stored: StoredSteps | None = None,
) -> tuple[SplitModel, list[float]]:
    """Descends a loss from the parameters of a model, by Adam (Kingma and Ba 2015).

    Args:
        model: split by what is trained.
        loss: of one record to forget and one retained.
        forget: F records to forget, each with a target.
        retain: retained records, each with a target.
        steps: how many, of what size.
        reference_log_probs: `(F,)` float32, log π_ref of the records to forget, for a loss that
            reads it.
        stored: stores states, and goes on from the last one; None for steps that are done at once.

    Returns:
        The model after the last step, and the mean loss of each step's pairs.

    Raises:
        RunDiverged: a loss is not finite.
        RunInterrupted: a signal came; the state is stored.
    """
    import optax

    optimizer = optax.adam(steps.learning_rate)
    start = model.trainable

    def mean_of_pairs(
        trainable: PyTree,
        start: PyTree,
        frozen: PyTree,
        forget: TokenRecord,
        retain: TokenRecord,
    ) -> jax.Array:
        of_pairs = jax.vmap(loss, in_axes=(None, None, None, 0, 0))
        return jnp.mean(of_pairs(trainable, start, frozen, forget, retain))

    @jax.jit
    def update(
        trainable: PyTree,
        state: PyTree,
        start: PyTree,
        frozen: PyTree,
        forget: TokenRecord,
        retain: TokenRecord,
    ) -> tuple[PyTree, PyTree, jax.Array]:
        value, gradient = jax.value_and_grad(mean_of_pairs)(
            trainable, start, frozen, forget, retain
        )
        updates, state = optimizer.update(gradient, state, trainable)
        return optax.apply_updates(trainable, updates), state, value

    # The loss of each step is stored with the state.
    begin = start, optimizer.init(start), np.zeros(steps.num_steps, np.float32)
    first, begin = (0, begin) if stored is None else stored.restore(begin)
    size = min(steps.batch_size, len(forget), len(retain))
    orders = [
        itertools.islice(
            batches(len(records), size, np.random.default_rng([steps.seed, purpose])), first, None
        )
        for purpose, records in enumerate((forget, retain))
    ]

    def step(number: int, before: PyTree) -> PyTree:
        trainable, state, losses = before
        rows = [next(order) for order in orders]
        pair = [
            batch_of(records.take(r)) for records, r in zip((forget, retain), rows, strict=True)
        ]
        if reference_log_probs is not None:
            known = jnp.asarray(reference_log_probs[rows[0]])
            pair[0] = pair[0]._replace(reference_log_prob=known)
        trainable, state, value = update(trainable, state, start, model.frozen, *pair)
        losses = np.array(losses)
        losses[number] = value
        if not np.isfinite(losses[number]):
            raise RunDiverged(
                f"the loss of step {number + 1} of {steps.num_steps} is {losses[number]}: the "
                "model has left the numbers that can be computed with. Lower learning_rate, or "
                "choose another method, in a new folder",
                number + 1,
            )
        return trainable, state, losses

    trainable, _, losses = repeat(
        step, begin, first=first, num_steps=steps.num_steps, stored=stored
    )
    return model.replace(trainable=trainable), [float(loss) for loss in losses]


def batch_of(records: LanguageDataset) -> TokenRecord:
    """Returns what a loss reads of records, with a leading axis of them."""
    arrays = records.input_ids, records.attention_mask, records.loss_mask
    return TokenRecord(*map(jnp.asarray, arrays))


def batches(number: int, size: int, draws: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields rows of batches without end: one order of all rows after the other."""
    waiting = np.zeros(0, np.int64)
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, draws.permutation(number)])
        yield waiting[:size]
        waiting = waiting[size:]
