"""The programs of a step for devices that are not there: with privacy, and the ordinary one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from dpjax_accounting import DPSGD
from jax.sharding import AbstractMesh, Mesh

from dpjax.finetuning.setup.model.load import model_layout
from dpjax.finetuning.tasks.causal_lm import CausalLanguage, LanguageBatch
from dpjax.models import SplitModel
from dpjax.privatize import FlatClipping, RunKey, explain
from dpjax.privatize.structured.costs.choice import StrategyChoice
from dpjax.training import Layout, PrivateTraining

PyTree = Any


@dataclasses.dataclass(frozen=True)
class StepShapes:
    """What a step takes: shapes that say where each array would lie.

    Attributes:
        params: what is trained.
        state: of the optimizer.
        frozen: the other parameters.
        batch: records of the step.
        mask: which of them count.
    """

    params: PyTree
    state: PyTree
    frozen: PyTree
    batch: LanguageBatch
    mask: jax.ShapeDtypeStruct

    @property
    def held(self) -> dict[str, PyTree]:
        """By class, what is in memory from step to step, and the batch."""
        return {
            "parameters_trained": self.params,
            "parameters_frozen": self.frozen,
            "optimizer": self.state,
            "batch": (self.batch, self.mask),
        }


@dataclasses.dataclass(frozen=True)
class Steps:
    """A step of `finetune` with Adam, of records of one length, and the ordinary one beside it.

    Attributes:
        shapes: what both take.
        layout: where parameters lie.
        loss: of one record.
        optimizer: of both.
        mechanism: whose noise is added.
        device_memory: bytes that one device can use, for what `auto` chooses.
    """

    shapes: StepShapes
    layout: Layout
    loss: Callable[..., jax.Array]
    optimizer: optax.GradientTransformation
    mechanism: DPSGD
    device_memory: int | None

    def choice(self) -> StrategyChoice:
        """What `auto` takes for these steps, and why."""
        shapes = self.shapes
        explanation = explain(
            self.layout.gathering(self.loss),
            shapes.params,
            shapes.batch,
            shapes.frozen,
            device_memory=self.device_memory,
        )
        return explanation.auto

    def private(self, strategy: str) -> PrivateTraining:
        """The steps with privacy, as `finetune` makes them."""
        return PrivateTraining(
            self.loss,
            self.optimizer,
            self.mechanism,
            FlatClipping(1.0),
            # No number is drawn from it: it makes the programs alone.
            RunKey.from_os_entropy(),
            strategy=strategy,
            device_memory=self.device_memory,
            layout=self.layout,
        )

    def ordinary(self, *arguments: PyTree) -> tuple[PyTree, PyTree]:
        """Parameters and state after one step without privacy: the mean of the loss, and Adam."""
        params, state, batch, mask, frozen = arguments
        loss = self.layout.gathering(self.loss)

        def mean(params: PyTree) -> jax.Array:
            losses = jax.vmap(loss, (None, 0, None))(params, batch, frozen)
            return jnp.sum(jnp.where(mask, losses, 0.0)) / mask.shape[0]

        grads = jax.grad(mean)(params)
        with jax.named_scope("optimizer"):
            updates, state = self.optimizer.update(grads, state, params)
            return self.layout.keep(optax.apply_updates(params, updates), state)


def make_steps(
    split: SplitModel,
    mesh: Mesh | AbstractMesh,
    *,
    batch_size: int,
    length: int,
    vocab_chunk: int | None,
    device_memory: int | None = None,
) -> Steps:
    """Makes the steps of a model of shapes.

    Args:
        split: the model, of shapes.
        mesh: with the axes data, fsdp and tensor.
        batch_size: records of a step on all devices: its one microbatch.
        length: tokens of a record.
        vocab_chunk: tokens whose logits are held at once; None for all.
        device_memory: bytes that one device can use; None for those of the default device.
    """
    optimizer = optax.adam(1e-4)
    state = jax.eval_shape(optimizer.init, split.trainable)
    batch = LanguageBatch(
        jax.ShapeDtypeStruct((batch_size, length), jnp.int32),
        jax.ShapeDtypeStruct((batch_size, length), jnp.bool_),
        jax.ShapeDtypeStruct((batch_size, length), jnp.bool_),
    )
    shapes = StepShapes(
        split.trainable, state, split.frozen, batch, jax.ShapeDtypeStruct((batch_size,), jnp.bool_)
    )
    layout = model_layout(mesh)
    mechanism = DPSGD(
        num_units=100 * batch_size,
        expected_batch_size=batch_size,
        noise_multiplier=1.0,
        num_steps=1000,
    )
    return Steps(
        _placed(shapes, layout),
        layout,
        CausalLanguage(vocab_chunk=vocab_chunk).loss_fn(split.graphdef),
        optimizer,
        mechanism,
        device_memory,
    )


def lower_ordinary(steps: Steps) -> jax.stages.Lowered:
    """Lowers the ordinary step; parameters and state are taken over."""
    shapes = steps.shapes
    step = jax.jit(steps.ordinary, donate_argnums=(0, 1))
    return step.lower(shapes.params, shapes.state, shapes.batch, shapes.mask, shapes.frozen)


def lower_private(steps: Steps, strategy: str) -> dict[str, jax.stages.Lowered]:
    """Lowers the two programs of the private step: `add` and `update`."""
    shapes = steps.shapes
    lowered = steps.private(strategy).lower(
        shapes.params, shapes.state, shapes.batch, shapes.mask, shapes.frozen
    )
    return {"add": lowered.add, "update": lowered.update}


def _placed(shapes: StepShapes, layout: Layout) -> StepShapes:
    """The same shapes, each where the layout of a run puts the array."""
    return StepShapes(
        _at(shapes.params, layout.shardings(shapes.params)),
        _at(shapes.state, layout.shardings_of_state(shapes.state, shapes.params)),
        _at(shapes.frozen, layout.shardings(shapes.frozen)),
        jax.tree.map(layout.abstract_rows, shapes.batch),
        layout.abstract_rows(shapes.mask),
    )


def _at(tree: PyTree, shardings: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, at: leaf.update(sharding=at), tree, shardings)
