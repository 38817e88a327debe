"""Steps of training as a run does them, with privacy and without, and the ordinary step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dpjax_accounting import EpsilonBySteps, FixedSizeDPSGD

from benchmarks.support.models import CONFIGS, Tuning, draw_model
from dpjax.finetuning.setup.model.load import model_layout, on_devices
from dpjax.finetuning.tasks.causal_lm import CausalLanguage, LanguageBatch
from dpjax.models import Loading, SplitModel, choose_vocab_chunk
from dpjax.privatize import (
    FlatClipping,
    RunKey,
    StepTotal,
    memory_of_default_device,
    sampler_for,
)
from dpjax.training import (
    DivergenceWatch,
    Layout,
    NonPrivateTraining,
    PrivateTraining,
    StepDone,
    StepPrograms,
    TrainingSteps,
    run_steps,
)
from dpjax.training.steps import LoweredStep, Order

PyTree = Any
ORDINARY, NOT_CLIPPED = "ordinary", "not private"


@dataclasses.dataclass(frozen=True)
class Case:
    """One shape of training.

    Attributes:
        model: among the names of `benchmarks.support.models`.
        tuning: everything, or adapters on all linear layers.
        length: tokens of a record.
        microbatch_size: records at once, on all devices together.
        batch_size: records of a step.
        rank: of the adapters.
        loading: dtypes, attention, loops over layers, rematerialisation.
        vocab_chunk: logits held at once; None for all, "auto" for what dpjax chooses.
    """

    model: str
    tuning: Tuning
    length: int
    microbatch_size: int
    batch_size: int
    rank: int
    loading: Loading
    vocab_chunk: int | Literal["auto"] | None = "auto"


class Ordinary:
    """Training without privacy as it is written without dpjax: the gradient of the mean loss.

    Args:
        loss: of one record, `(params, record, frozen) -> scalar`.
        optimizer: makes an update of the mean gradient.
        sampler: draws the batches.
        batch_size: records of a step.
        layout: where parameters lie; None for a single device.
    """

    def __init__(
        self, loss: Any, optimizer: Any, sampler: Any, batch_size: int, layout: Layout | None
    ) -> None:
        self._other = NonPrivateTraining(loss, optimizer, sampler, batch_size, layout=layout)
        gathered = loss if layout is None else layout.gathering(loss)

        def add(
            total: StepTotal, params: PyTree, batch: PyTree, mask: jax.Array, frozen: PyTree
        ) -> StepTotal:
            def summed(params: PyTree) -> jax.Array:
                losses = jax.vmap(gathered, (None, 0, None))(params, batch, frozen)
                return jnp.sum(jnp.where(mask, losses, 0.0))

            value, grads = jax.value_and_grad(summed)(params)
            number = jnp.sum(mask, dtype=jnp.int32)
            return dataclasses.replace(
                total,
                grads=jax.tree.map(jnp.add, total.grads, grads),
                loss=total.loss + value,
                num_records=total.num_records + number,
                num_losses=total.num_losses + number,
            )

        self._add = jax.jit(add, donate_argnums=0)

    def batches(
        self, step: int, *, microbatch_size: int, order: Order
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draws the batch of a step, as microbatches `(rows, mask)`."""
        return self._other.batches(step, microbatch_size=microbatch_size, order=order)

    def begin(self, params: PyTree, step: int) -> tuple[StepTotal, PyTree]:
        """Returns the total that a step starts from, and the parameters."""
        return StepTotal.zeros(params, step), params

    def add(
        self, total: StepTotal, params: PyTree, batch: PyTree, mask: jax.Array, frozen: PyTree
    ) -> tuple[StepTotal, PyTree]:
        """Adds the gradients of a microbatch, and gives the parameters back."""
        return self._add(total, params, batch, mask, frozen), params

    def update(
        self, total: StepTotal, step: int, params: PyTree, state: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Applies the optimizer to the sum divided by the batch size."""
        return self._other.update(total, step, params, state)

    def lower(
        self, params: PyTree, state: PyTree, batch: PyTree, mask: PyTree, frozen: PyTree
    ) -> LoweredStep:
        """Lowers sum and optimizer as they are in a step."""
        total = jax.eval_shape(StepTotal.zeros, params)
        lowered = self._other.lower(params, state, batch, mask, frozen)
        return lowered._replace(add=self._add.lower(total, params, batch, mask, frozen))


class Trainings:
    """The same training by several kinds of steps, on the same draws of the same records.

    Batches have a fixed size, so that every step does the same work; texts are random tokens.

    Args:
        case: what is trained.
        strategies: of clipping, as for `dpjax.clipped_grad`.
        num_steps: the most that are done.
        mesh: of several devices; None for one.

    Attributes:
        split: the model.
        vocab_chunk: logits held at once; None for all.
        kinds: names of the steps, the ordinary ones first.
    """

    def __init__(
        self,
        case: Case,
        strategies: tuple[str, ...],
        num_steps: int,
        mesh: jax.sharding.Mesh | None = None,
    ) -> None:
        self._case, self._num_steps = case, num_steps
        self._layout = None if mesh is None else model_layout(mesh)
        split = draw_model(case.model, tuning=case.tuning, rank=case.rank, loading=case.loading)
        self.split: SplitModel = split if self._layout is None else on_devices(split, self._layout)
        self._optimizer = optax.adam(1e-5)
        self._mechanism = FixedSizeDPSGD(
            num_units=4 * case.batch_size,
            batch_size=case.batch_size,
            noise_multiplier=1.0,
            num_steps=num_steps,
        )
        self.vocab_chunk = _vocab_chunk(case, self._layout)
        loss = CausalLanguage(vocab_chunk=self.vocab_chunk).loss_fn(split.graphdef)
        sampler = sampler_for(self._mechanism, RunKey.from_seed(0))
        without = (loss, self._optimizer, sampler, case.batch_size)

        def private(strategy: str) -> TrainingSteps:
            return PrivateTraining(
                loss,
                self._optimizer,
                self._mechanism,
                FlatClipping(1.0),
                RunKey.from_seed(0),
                strategy=strategy,
                layout=self._layout,
            )

        self._makers: dict[str, Callable[[], TrainingSteps]] = {
            ORDINARY: lambda: Ordinary(*without, self._layout),
            NOT_CLIPPED: lambda: NonPrivateTraining(*without, layout=self._layout),
        }
        for strategy in strategies:
            self._makers[f"private, {strategy}"] = functools.partial(private, strategy)
        self.kinds = tuple(self._makers)
        vocab_size = CONFIGS[case.model]["vocab_size"]
        shape = (4 * case.batch_size, case.length)
        self._ids = np.random.default_rng(0).integers(0, vocab_size, shape, dtype=np.int32)

    def start(self, kind: str) -> Iterator[StepDone]:
        """Returns an iterator that does a step each time, with parameters of its own.

        Args:
            kind: among `kinds`.
        """
        params = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), self.split.trainable)
        init = self._optimizer.init
        state = init(params) if self._layout is None else self._layout.init_state(init, params)
        # Made afresh: a private step is released once.
        steps = self._makers[kind]()
        is_private = isinstance(steps, PrivateTraining)

        def batches(step: int) -> Iterator[tuple[PyTree, Any]]:
            drawn = steps.batches(
                step, microbatch_size=self._case.microbatch_size, order=lambda rows: rows
            )
            for rows, mask in drawn:
                batch = (self._batch(rows), mask)
                yield batch if self._layout is None else self._layout.place_rows(batch)

        return run_steps(
            steps,
            batches,
            params,
            state,
            self.split.frozen,
            first=0,
            num_steps=self._num_steps,
            spent=EpsilonBySteps(self._mechanism, 1e-5) if is_private else None,
            watch=DivergenceWatch(self._case.batch_size, "report this"),
        )

    def compiled_peak(self, kind: str) -> int:
        """Returns the bytes that a device holds at most, as the compiler says.

        Args:
            kind: among `kinds`.
        """
        shapes = jax.tree.map(self._shape_of, (self.split.trainable, self.split.frozen))
        state = jax.eval_shape(self._optimizer.init, shapes[0])
        programs = StepPrograms(
            self._makers[kind](),
            shapes[0],
            state,
            shapes[1],
            lambda size: jax.tree.map(self._shape_of, self._batch(np.zeros(size, int))),
        )
        return programs.memory(self._case.microbatch_size).peak

    def _batch(self, rows: np.ndarray) -> LanguageBatch:
        ids = self._ids[rows]
        return LanguageBatch(ids, np.ones(ids.shape, bool), np.ones(ids.shape, bool))

    def _shape_of(self, leaf: Any) -> jax.ShapeDtypeStruct:
        # Of a single device nothing is said, as the loop does: the programs are the same.
        sharding = None if self._layout is None else getattr(leaf, "sharding", None)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _vocab_chunk(case: Case, layout: Layout | None) -> int | None:
    """The number of a case; for "auto", what `finetune` would take."""
    if not isinstance(case.vocab_chunk, str):
        return case.vocab_chunk
    records = -(-case.microbatch_size // (1 if layout is None else layout.devices_of_rows))
    vocab_size = CONFIGS[case.model]["vocab_size"]
    return choose_vocab_chunk(
        records * (case.length - 1), vocab_size, device_memory=memory_of_default_device()
    )
