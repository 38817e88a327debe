"""The optimizer of a run: by name, with a schedule, and a learning rate for the head."""

from __future__ import annotations

from collections.abc import Collection

import jax
import optax

from dpjax.basics.typing import PyTree
from dpjax.finetuning.config import Training
from dpjax.models import tangent_lora
from dpjax.training import scale_by_adam_bc


def make_optimizer(
    training: Training,
    num_steps: int,
    head: Collection[str] = ("classifier",),
    *,
    noise_stddev: float = 0.0,
    in_tangent_space: bool = False,
) -> optax.GradientTransformation:
    """Makes the optimizer that was asked for: linear warm-up, then what the schedule says.

    Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019), stochastic gradient descent with
    momentum, or DP-AdamBC. The classification head, the parts of the model named in `head`, may
    have a learning rate of its own, on the same schedule.

    Args:
        training: the options.
        num_steps: of the run.
        head: names of the parts of the model that tuning initialises.
        noise_stddev: of the noise on the private gradient, per coordinate; 0 without privacy.
        in_tangent_space: whether steps of adapters are those of `tangent_lora`.
    """
    peak = training.learning_rate
    schedule = make_schedule(training, num_steps)
    make = {
        "adam": lambda: optax.adam(schedule),
        "adamw": lambda: optax.adamw(schedule, weight_decay=training.weight_decay),
        # With a momentum of zero, optax would hold as much again as is trained, and not read it.
        "sgd": lambda: optax.sgd(schedule, momentum=training.momentum or None),
        "adam-bc": lambda: optax.chain(
            scale_by_adam_bc(noise_stddev), optax.scale_by_learning_rate(schedule)
        ),
    }[training.optimizer]
    optimizer = make()
    if in_tangent_space:
        assert training.optimizer != "adamw"
        optimizer = tangent_lora(
            optimizer,
            schedule,
            rule=training.optimizer,
            momentum=training.momentum,
            noise_stddev=noise_stddev,
        )
    if training.head_learning_rate is None:
        return optimizer

    def is_head(trainable: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key in head, trainable)

    # What each of them returns is proportional to the learning rate.
    return optax.chain(
        optimizer, optax.masked(optax.scale(training.head_learning_rate / peak), is_head)
    )


def make_schedule(training: Training, num_steps: int) -> optax.Schedule:
    """Makes the learning rate by step, counted from 0: linear warm-up, then what was asked for.

    Args:
        training: the options.
        num_steps: of the run.
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
    return optax.join_schedules([rise, after], [warmup]) if warmup else after
