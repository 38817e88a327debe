"""The steps of a run, and the shapes that they are compiled for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.setup.model.clipping_rule import adaptive_rule, clipping_rule
from dpjax.finetuning.setup.model.features import abstract_records, loss_of_features
from dpjax.finetuning.setup.optimizer import make_optimizer
from dpjax.finetuning.setup.plan import Plan
from dpjax.finetuning.tasks.base import Loss
from dpjax.finetuning.tasks.features import FeatureRecord
from dpjax.models import SplitModel, Trainable, abstract_model, read_config, split_trainable
from dpjax.privatize import RunKey, sampler_for, unit_loss
from dpjax.training import (
    Layout,
    NonPrivateTraining,
    PrivateTraining,
    StepPrograms,
    TrainingSteps,
    ZerothOrder,
    keep_average,
    keep_clip_norm,
)


def make_run_optimizer(plan: Plan) -> Any:
    """Makes the optimizer of a run, or a stage: it knows the noise on the private gradient."""
    training = plan.config.training
    # Correlated noise has no one standard deviation, and no other optimizer asks for it.
    stddev = noise_stddev_of(plan) if training.optimizer == "adam-bc" else 0.0
    optimizer = make_optimizer(
        training,
        plan.num_steps - plan.first_step,
        plan.head,
        noise_stddev=stddev,
        in_tangent_space=plan.config.trains_in_tangent_space,
    )
    if training.ema_decay is not None:
        optimizer = keep_average(optimizer, training.ema_decay)
    if plan.config.privacy.target_quantile is not None:
        optimizer = keep_clip_norm(optimizer, plan.config.privacy.clip_norm)
    return optimizer


def make_steps(
    plan: Plan,
    graphdef: Any,
    optimizer: Any,
    run_key: RunKey,
    present: np.ndarray | None = None,
    layout: Layout | None = None,
) -> TrainingSteps:
    """Makes the steps: with privacy, sampler, clipping and noise read the one mechanism.

    Args:
        plan: what was asked for, or a stage of it.
        graphdef: the structure of the model.
        optimizer: from `make_run_optimizer`.
        run_key: the secret of the run.
        present: `(S,)` bool, which slots of records are taken; None for all.
        layout: where parameters lie; None for a single device.
    """
    loss = unit_loss_of(plan, graphdef)
    # What owners do in a step leaves nothing of the loss that a faster strategy could see.
    strategy = "auto" if plan.owner_training is None else "materialize"
    if plan.mechanism is None:
        sampler = sampler_for(plan.recipe, run_key, present)
        batch_size = plan.noise.batch_size
        return NonPrivateTraining(
            loss,
            optimizer,
            sampler,
            batch_size,
            strategy=strategy,
            device_memory=plan.device_memory,
            layout=layout,
        )
    return PrivateTraining(
        loss,
        optimizer,
        plan.mechanism,
        adaptive_rule(plan) or clipping_rule(plan),
        run_key,
        strategy=strategy,
        device_memory=plan.device_memory,
        present=present,
        noise_strategy=plan.noise_strategy,
        layout=layout,
        zeroth_order=zeroth_order_of(plan),
    )


def zeroth_order_of(plan: Plan) -> ZerothOrder | None:
    """Returns how gradients are estimated from forward passes; None where they are not."""
    training = plan.config.training
    if training.gradient == "backward":
        return None
    return ZerothOrder(training.smoothing, training.num_directions)


def unit_loss_of(plan: Plan, graphdef: Any) -> Loss:
    """Makes the loss of one unit: a record, or an owner where batches are of these.

    Where the plan has features, records are `FeatureRecord`s.
    """
    loss = plan.task.loss_fn(graphdef)
    if plan.features is not None:
        loss = loss_of_features(plan, plan.features, loss)
    if plan.owner_training is not None:
        return plan.owner_training.unit_loss(loss)
    return owner_loss(loss) if plan.samples_owners else loss


def owner_loss(loss: Loss) -> Loss:
    """Makes the loss of one owner: the mean over the records that were drawn.

    One contribution per owner is clipped, so that the owner's whole data moves the sum by at most
    the clip norm. With the mean, clip norm and learning rate mean the same for any number of
    records; with the sum, owners of many records would be clipped harder.
    """

    def loss_of_unit(params: PyTree, unit: PyTree, frozen: PyTree) -> jax.Array:
        def record_loss(params: PyTree, record: PyTree) -> jax.Array:
            return loss(params, record, frozen)

        return unit_loss(record_loss, reduction="mean")(params, unit)

    return loss_of_unit


def drops_inputs(config: FinetuneConfig) -> bool:
    """Whether adapters are trained with dropout, for which each record has a key."""
    return config.tuning == "lora" and config.lora.dropout > 0


def units_at_once(plan: Plan, microbatch_size: int) -> int:
    """Returns the units of a microbatch: as many records at once as where these are the units."""
    if not plan.samples_owners:
        return microbatch_size
    return max(1, microbatch_size // plan.config.privacy.records_per_owner)


def abstract_split(plan: Plan) -> SplitModel:
    """Returns the shapes of the model that the run trains, split by what is trained."""
    config = plan.config
    model = abstract_model(
        plan.checkpoint,
        plan.task.model_task(read_config(plan.checkpoint)),
        num_labels=(len(plan.task.labels) if plan.task.makes_head else 0) or None,
        pooling=config.pooling,
        num_layers=config.num_layers,
        feature_layers=config.features.layers,
        lora=config.lora if config.tuning == "lora" else None,
        loading=config.compute.loading(),
    )
    return split_trainable(model, Trainable(config.tuning, num_layers=config.num_trained_layers))


def step_programs(plan: Plan, model: SplitModel) -> StepPrograms:
    """Makes the programs of a step, to be compiled for microbatches of any size.

    Records have `training.max_length` tokens, as long as any may be: what is compiled does not
    depend on the private records.

    Args:
        plan: what was asked for.
        model: arrays or shapes.
    """
    optimizer = make_run_optimizer(plan)
    # No number is drawn from the key: it makes the programs alone.
    steps = make_steps(plan, model.graphdef, optimizer, RunKey.from_os_entropy())
    state = jax.eval_shape(optimizer.init, model.trainable)
    return StepPrograms(
        steps, model.trainable, state, model.frozen, lambda size: abstract_batch(plan, size)
    )


def abstract_batch(plan: Plan, size: int) -> PyTree:
    """Returns the shapes of a microbatch of the longest records; of owners with the most."""
    num_units, per_owner = units_at_once(plan, size), plan.config.privacy.records_per_owner
    units = (num_units, per_owner) if plan.samples_owners else (num_units,)
    batch = abstract_records(plan, units)
    if drops_inputs(plan.config):
        batch = batch._replace(dropout_keys=jax.ShapeDtypeStruct((*units, 2), jnp.uint32))
    if plan.features is not None:
        arrays = tuple(
            jax.ShapeDtypeStruct((*units, *array.shape), array.dtype)
            for array in plan.features.arrays
        )
        batch = FeatureRecord(arrays, plan.features.without_unread(batch))
    if not plan.samples_owners:
        return batch
    return {"examples": batch, "mask": jax.ShapeDtypeStruct(units, jnp.bool_)}


def noise_stddev_of(plan: Plan) -> float:
    """Of the noise on the private gradient, per coordinate; 0 without privacy."""
    if plan.mechanism is None:
        return 0.0
    noise = plan.noise
    return noise.noise_multiplier * float(clipping_rule(plan).clip_norm) / noise.batch_size
