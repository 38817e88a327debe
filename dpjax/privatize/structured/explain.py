"""`explain`: what a user reads when a clipped gradient is slow or large."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.room import Room, check_device_memory, devices_of_rows
from dpjax.privatize.devices.varying import example_types
from dpjax.privatize.structured.clipped_sums import check_readable
from dpjax.privatize.structured.costs.choice import StrategyChoice, choose
from dpjax.privatize.structured.costs.cost import StrategyCost, TermCost, term_costs
from dpjax.privatize.structured.costs.methods import kept_formed
from dpjax.privatize.structured.gradient import gradient_program
from dpjax.privatize.untrained_leaves import merged, split


@dataclasses.dataclass(frozen=True)
class ParameterExplanation:
    """One parameter: `terms` says what the gradient of one example is the sum of."""

    name: str
    shape: tuple[int, ...]
    terms: tuple[TermCost, ...]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `clipped_grad` found in a loss; printing it gives two tables and a sentence.

    The last column of the second is how many examples at once on a device "auto" still considers a
    strategy for: a faster one may be had by a smaller microbatch.

    Attributes:
        parameters: those that are floating-point, in the order of the leaves.
        auto: what strategy="auto" takes for such a batch, or microbatch, and by what it was
            decided; printing it gives a sentence.
    """

    parameters: tuple[ParameterExplanation, ...]
    auto: StrategyChoice

    @property
    def choice(self) -> str:
        """The name of the strategy that "auto" takes."""
        return self.auto.strategy

    @property
    def strategies(self) -> dict[str, StrategyCost]:
        """Estimates for one example, and for the ordinary step as "non_private"."""
        return self.auto.costs

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=120)
        with console.capture() as capture:
            console.print(self._parameter_table())
            console.print(self._strategy_table())
            console.print(str(self.auto), highlight=False, markup=False)
        return capture.get().rstrip()

    def _parameter_table(self) -> Any:
        from rich.table import Table

        table = Table("parameter", "shape", "gradient of one example", "norm", "multiplications")
        for parameter in self.parameters:
            for index, term in enumerate(parameter.terms):
                table.add_row(
                    parameter.name if index == 0 else "",
                    str(parameter.shape) if index == 0 else "",
                    term.description,
                    term.method,
                    f"{term.operations:,}",
                )
            if not parameter.terms:
                table.add_row(parameter.name, str(parameter.shape), "zero: not used", "", "0")
        return table

    def _strategy_table(self) -> Any:
        from rich.table import Table

        auto = self.auto
        table = Table(
            "strategy",
            "time (estimate)",
            f"extra memory, {auto.num_examples} examples",
            "auto allows at once",
        )
        for name, cost in auto.costs.items():
            chosen = " (auto takes this)" if name == auto.strategy else ""
            megabytes = 1e-6 * auto.bytes_of(name)
            most = f"{auto.budget // cost.num_bytes:,} examples" if cost.num_bytes else ""
            table.add_row(name + chosen, f"{auto.time_of(name):.2f}", f"{megabytes:,.1f} MB", most)
        return table


def explain(
    loss_fn: Callable[..., Any],
    params: PyTree,
    batch: PyTree,
    *shared: PyTree,
    has_aux: bool = False,
    device_memory: int | None = None,
) -> Explanation:
    """Shows how each parameter's clipped gradient is computed, and what each strategy costs.

    Nothing is computed, only traced. Times are estimates from operation counts, relative to the
    ordinary training step.

    Args:
        loss_fn: as for `clipped_grad`.
        params: as for `clipped_grad`; shapes will do.
        batch: the examples, a pytree of arrays or shapes with a leading example axis `(B, ...)`.
            Where they are divided among devices, those of one device count.
        shared: what the loss takes beside parameters and example, the same for all examples: arrays
            or shapes, as for `PrivateGradient.add`.
        has_aux: the loss returns `(scalar, aux)`.
        device_memory: as for `clipped_grad`.

    Returns:
        An `Explanation`: `print` it.

    Raises:
        TypeError, ValueError: `device_memory` is not a positive whole number.
        UnreadableProgramError: the loss keeps state, or this version of JAX writes its programs in
            a way that is not known; `clipped_grad` then computes every per-example gradient.

    Example:
        >>> def loss(params, x):
        ...     return jnp.sum(jnp.tanh(x @ params["w"] + params["b"]))
        >>> params = {"b": jnp.zeros(2), "w": jnp.zeros((5, 2))}
        >>> explanation = explain(loss, params, jnp.zeros((4, 3, 5)))
        >>> for parameter in explanation.parameters:
        ...     print(parameter.name, [term.description for term in parameter.terms])
        ['b'] ['dense, from reduce_sum']
        ['w'] ['contraction of 3, 2 × 5']
        >>> explanation.choice
        'one_backward'
    """
    check_device_memory(device_memory)
    check_readable()
    example = example_types(batch)
    batch_size = jnp.shape(jax.tree.leaves(batch)[0])[0]
    trained, fixed = split(params)

    def compute_loss(trained: PyTree, rest: tuple[PyTree, PyTree, tuple[PyTree, ...]]) -> Any:
        fixed, example, shared = rest
        return loss_fn(merged(trained, fixed), example, *shared)

    # Shapes have no values that the loss could close over.
    gradient = gradient_program(compute_loss, has_aux, trained, (fixed, example, shared))
    room = Room(num_devices=devices_of_rows(batch), device_memory=device_memory)
    at_once = room.examples_at_once(batch_size)
    auto = choose(gradient, at_once, room.known_device_memory())
    kept = kept_formed(gradient.terms, at_once) if auto.strategy == "one_backward" else ()
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(trained)]
    return Explanation(
        parameters=tuple(
            ParameterExplanation(name, leaf.shape, tuple(term_costs(terms, kept)))
            for name, leaf, terms in zip(names, gradient.params, gradient.terms, strict=True)
        ),
        auto=auto,
    )
