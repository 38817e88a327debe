"""`fit`: private training of any JAX model on records that lie in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from dpjax_accounting import DPSGD, EpsilonBySteps
from rich.console import Console

from dpjax.privatize import ClippingRule, RunKey
from dpjax.training.divergence import DivergenceWatch
from dpjax.training.fit_checks import (
    check_data,
    checked_delta,
    checked_params,
    checked_rule,
    checked_run_key,
)
from dpjax.training.fit_report import report_fit
from dpjax.training.loop import StepDone, run_steps
from dpjax.training.no_privacy import NoPrivacy
from dpjax.training.progress import TrainingProgress
from dpjax.training.steps import NonPrivateTraining, PrivateTraining, TrainingSteps
from dpjax.typing import PyTree

_ADVICE = "start another one with a lower learning rate"


@runtime_checkable
class Records(Protocol):
    """Records that give the batch of some rows, such as a memory-mapped table."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> PyTree:
        """Returns the records at `rows`, `(b,)` int64, as a pytree of arrays `(b, ...)`."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FitResult:
    """What training came to.

    Attributes:
        params: the trained parameters.
        state: the optimizer's state.
        epsilon: ε of the steps that were done; None without privacy.
        delta: δ of the guarantee; None without privacy.
        metrics: what each step saw, as `StepDone.row` has it. Private: it has no noise.
        privacy: the privacy report, with the schema of dpjax_accounting.
    """

    params: PyTree
    state: PyTree
    epsilon: float | None
    delta: float | None
    metrics: list[dict[str, Any]]
    privacy: dict[str, Any]


class Fit:
    """A run of `fit` that somebody iterates step by step; takes the arguments of `fit`.

    A loop may leave it early, and a later loop goes on where that one left. `result` then says what
    the steps done so far have come to, and what they have cost.

    Attributes:
        params: the parameters after the last step that was done. The next step takes over their
            buffers: copy what is to be kept.
        state: the optimizer's state, likewise.
        steps_completed: how many steps are done.

    Example:
        >>> run = Fit(
        ...     lambda params, x: jnp.sum((params - x) ** 2),
        ...     jnp.zeros(2),
        ...     np.ones((400, 2), np.float32),
        ...     mechanism=DPSGD(
        ...         num_units=400, expected_batch_size=40, noise_multiplier=1.0, num_steps=20
        ...     ),
        ...     optimizer=optax.sgd(0.1),
        ...     clip_norm=1.0,
        ... )
        >>> for done in run:
        ...     if done.step == 5:
        ...         break
        >>> run.steps_completed, run.result().privacy["status"]
        (5, 'unfinished')
    """

    def __init__(
        self,
        loss: Callable[..., jax.Array],
        params: PyTree,
        data: PyTree | Records,
        *,
        mechanism: DPSGD | NoPrivacy,
        optimizer: optax.GradientTransformation,
        clip_norm: float | None = None,
        rule: ClippingRule | None = None,
        delta: float | None = None,
        frozen: PyTree = None,
        run_key: RunKey | None = None,
        microbatch_size: int = 32,
        strategy: str = "auto",
    ) -> None:
        if not isinstance(mechanism, (DPSGD, NoPrivacy)):
            raise TypeError(
                "mechanism must be a DPSGD, or NoPrivacy for training without privacy, got "
                f"{type(mechanism).__name__}: the accountant would count something else"
            )
        if microbatch_size < 1:
            raise ValueError(f"microbatch_size must be at least 1, got {microbatch_size}")
        self.mechanism = mechanism if isinstance(mechanism, DPSGD) else None
        self.num_steps = mechanism.num_steps
        self.rule = checked_rule(self.mechanism, clip_norm, rule)
        self.delta = checked_delta(self.mechanism, delta)
        self.delta_is_default = delta is None
        self.run_key = checked_run_key(run_key)
        self.params = checked_params(params)
        self.steps_completed = 0
        check_data(data, mechanism.num_units)
        # What it refuses, it refuses before the first step.
        self._spent = None
        if self.mechanism is not None and self.delta is not None:
            self._spent = EpsilonBySteps(self.mechanism, self.delta)
            self.mechanism.epsilon(self.delta)
        self.state = optimizer.init(self.params)
        self._data, self._frozen, self._microbatch_size = data, frozen, microbatch_size
        self._metrics: list[dict[str, Any]] = []
        self._watch = DivergenceWatch(mechanism.expected_batch_size, _ADVICE)
        self._steps = self._make_steps(loss, optimizer, mechanism, strategy)

    def __iter__(self) -> Iterator[StepDone]:
        """Does the steps that are left, one at a time.

        Raises:
            RunDiverged: parameters or losses are not finite any more.
        """
        for done in run_steps(
            self._steps,
            self._batches,
            self.params,
            self.state,
            self._frozen,
            first=self.steps_completed,
            num_steps=self.num_steps,
            spent=self._spent,
            watch=self._watch,
        ):
            self.params, self.state, self.steps_completed = done.params, done.state, done.step
            self._metrics.append(done.row())
            self._watch.check_losses(done.step, done.num_records, done.num_losses)
            if done.step == self.num_steps:
                self._watch.check_parameters(done.step, bool(done.are_finite))
            yield done

    def result(self) -> FitResult:
        """Returns what the steps done so far have come to.

        ε is theirs if their number was chosen without looking at the records, or at anything that
        was computed from them. Whoever stopped because of what they saw has the ε of all steps
        that were planned; the report has both.
        """
        privacy = report_fit(
            self.mechanism,
            self.delta,
            self.rule,
            num_steps=self.num_steps,
            steps_completed=self.steps_completed,
            run_key=self.run_key,
            delta_is_default=self.delta_is_default,
        )
        guarantee = privacy["guarantee"]
        return FitResult(
            params=self.params,
            state=self.state,
            epsilon=None if guarantee is None else guarantee["epsilon"],
            delta=self.delta,
            metrics=list(self._metrics),
            privacy=privacy,
        )

    def _make_steps(
        self,
        loss: Callable[..., jax.Array],
        optimizer: optax.GradientTransformation,
        mechanism: DPSGD | NoPrivacy,
        strategy: str,
    ) -> TrainingSteps:
        reads_frozen = self._frozen is not None

        def record_loss(params: PyTree, record: PyTree, frozen: PyTree) -> jax.Array:
            return loss(params, record, frozen) if reads_frozen else loss(params, record)

        if isinstance(mechanism, DPSGD) and self.rule is not None:
            return PrivateTraining(
                record_loss, optimizer, mechanism, self.rule, self.run_key, strategy=strategy
            )
        return NonPrivateTraining(
            record_loss,
            optimizer,
            mechanism.num_units,
            mechanism.expected_batch_size,
            self.run_key,
        )

    def _batches(self, step: int) -> Iterator[tuple[PyTree, np.ndarray]]:
        pieces = self._steps.batches(
            step, microbatch_size=self._microbatch_size, order=lambda rows: rows
        )
        for rows, mask in pieces:
            yield _take(self._data, rows), mask


def fit(
    loss: Callable[..., jax.Array],
    params: PyTree,
    data: PyTree | Records,
    *,
    mechanism: DPSGD | NoPrivacy,
    optimizer: optax.GradientTransformation,
    clip_norm: float | None = None,
    rule: ClippingRule | None = None,
    delta: float | None = None,
    frozen: PyTree = None,
    run_key: RunKey | None = None,
    microbatch_size: int = 32,
    strategy: str = "auto",
    console: Console | None = None,
) -> FitResult:
    """Trains any JAX model with DP-SGD: samples, clips, adds noise once a step, and accounts.

    Each step releases (Σᵢ cᵢ gᵢ + N(0, σ²C²)) / B to the optimizer (Abadi et al. 2016, "Deep
    Learning with Differential Privacy", Algorithm 1). The loop is that of `dpjax.finetune`.

    Args:
        loss: `(params, record) -> scalar` of one record without a batch axis; or
            `(params, record, frozen) -> scalar` if `frozen` is given. Any JAX function: parameters
            of Flax, Equinox or Haiku are pytrees.
        params: a pytree of floating point arrays, copied: yours are not taken over.
        data: n records, a pytree of arrays (n, ...); or an object with `len` and
            `take(rows) -> batch`. Record i is unit i of the mechanism.
        mechanism: what the accountant counts, or `NoPrivacy`.
        optimizer: an optax transformation of the private gradient.
        clip_norm: C > 0, the most that one record contributes, in L2 norm.
        rule: instead of `clip_norm`, a clipping rule such as `PerGroupClipping`.
        delta: δ of the guarantee; default: min(1e-5, n^-1.1).
        frozen: a pytree of arrays that the loss reads and nothing trains.
        run_key: the secret of this run; default: from the operating system.
        microbatch_size: records processed at once. It costs memory and changes results by rounding
            only, ε not at all.
        strategy: how clipped sums are computed, as for `clipped_grad`.
        console: where progress is shown; default: a new one. `Console(quiet=True)` for silence.

    Returns:
        Parameters, ε, metrics and the privacy report.

    Raises:
        TypeError: an argument has the wrong type, or the clip norm is given twice or not at all.
        ValueError: data and mechanism differ in the number of records, a number is out of range,
            or parameters are not finite. All of it is found before the first step.
        RunDiverged: parameters or losses are not finite any more.

    Example:
        >>> result = fit(
        ...     lambda params, x: jnp.sum((params - x) ** 2),
        ...     jnp.zeros(2),
        ...     np.ones((400, 2), np.float32),
        ...     mechanism=DPSGD(
        ...         num_units=400, expected_batch_size=40, noise_multiplier=1.0, num_steps=20
        ...     ),
        ...     optimizer=optax.sgd(0.1),
        ...     clip_norm=1.0,
        ...     console=Console(quiet=True),
        ... )
        >>> round(result.epsilon, 2), result.params.shape
        (3.28, (2,))
    """
    run = Fit(
        loss,
        params,
        data,
        mechanism=mechanism,
        optimizer=optimizer,
        clip_norm=clip_norm,
        rule=rule,
        delta=delta,
        frozen=frozen,
        run_key=run_key,
        microbatch_size=microbatch_size,
        strategy=strategy,
    )
    shown = Console() if console is None else console
    with TrainingProgress(shown, run.num_steps, 0, run.mechanism is not None) as progress:
        for done in run:
            progress.update(done.step, done.loss, done.epsilon, done.num_records)
    return run.result()


def _take(data: PyTree | Records, rows: np.ndarray) -> PyTree:
    if isinstance(data, Records):
        return data.take(rows)
    return jax.tree.map(lambda leaf: leaf[rows], data)
