"""Adam with a schedule, and a learning rate of its own for the head."""

from __future__ import annotations

from collections.abc import Collection

import jax
import optax

from dpjax.finetuning.config import Training
from dpjax.typing import PyTree


def make_optimizer(
    training: Training, num_steps: int, head: Collection[str] = ("classifier",)
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015) with linear warm-up, then constant, linear or cosine decay to 0.

    The classification head, the parts of the model named in `head`, may have a learning rate of its
    own, on the same schedule.
    """
    peak = training.learning_rate
    warmup = round(training.warmup_fraction * num_steps)
    decay_steps = max(1, num_steps - warmup)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps),
    }[training.schedule]
    # Starting above zero: a first step with learning rate 0 would spend privacy for nothing.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    adam = optax.adam(optax.join_schedules([rise, after], [warmup]) if warmup else after)
    if training.head_learning_rate is None:
        return adam

    def is_head(trainable: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key in head, trainable)

    # What Adam returns is proportional to the learning rate.
    return optax.chain(adam, optax.masked(optax.scale(training.head_learning_rate / peak), is_head))
