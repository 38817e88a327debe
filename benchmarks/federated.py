"""A round of federated adapters: one compiled program for many clients, and a loop over clients.

    python -m benchmarks federated

Each client trains adapters on its own records of random tokens, and its update is clipped and added
up. One way compiles the local training of one client and calls it for each client in a loop of
Python. The others are one program for all clients (`dpjax.federated.client_loss`), which trains
them one after another, or several at once under `jax.vmap`. Where flwr and ray are installed, on a
CPU, Flower's simulation hands the same compiled client to a worker for each core. All give the same
sum, and take turns.

Beside the table stands ε for the clients by dpjax's accountant, and by Flower's where the package
flwr is installed: that accountant counts no amplification by sampling.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dpjax_accounting import DPSGD
from rich.console import Console
from rich.table import Table

from benchmarks.results_file import write_results
from benchmarks.support.flower_round import Round, flower_is_installed, in_simulation
from benchmarks.support.models import CONFIGS, draw_model
from benchmarks.support.timing import median_ratio, time_in_turns
from dpjax import clipped_grad
from dpjax.basics.option_checks import CheckedOptions, check_at_least, check_choice
from dpjax.federated import client_loss, local_update
from dpjax.finetuning.tasks.causal_lm import CausalLanguage, LanguageBatch
from dpjax.models import Loading

LOOP = "a loop over clients"
FLOWER = "Flower's simulation"
_CLIP_NORM, _DELTA = 0.1, 1e-5


@dataclasses.dataclass(frozen=True)
class Options(CheckedOptions):
    """What is measured."""

    model: str = "tiny"
    """Among the names of benchmarks/support/models.py."""
    rank: int = 8
    num_clients: int = 100
    """Clients of the round."""
    num_batches: int = 2
    """Local steps of a client."""
    batch_size: int = 4
    """Records of a local step."""
    length: int = 32
    """Tokens of a record."""
    at_once: tuple[int, ...] = (1, 4, 10, 100)
    """Clients that are trained at once."""
    flower: bool = True
    """Run the round in Flower's simulation too, where it is installed and the device is a CPU."""
    repeats: int = 5
    output: Path = Path("benchmarks/results/federated.json")

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        check_choice("model", self.model, tuple(CONFIGS))
        for name in ("rank", "num_clients", "num_batches", "batch_size", "length", "repeats"):
            check_at_least(name, getattr(self, name), 1)


class Clients(NamedTuple):
    """The clients of a round, and what one of them does.

    Attributes:
        params: the adapters of the server.
        frozen: all other parameters.
        records: of all clients, with leading axes (clients, batches, records of a batch).
        loss: of a record.
        optimizer: of the local steps.
        clipped_update: compiled, `(params, client, frozen) -> update`, with the sign of a gradient.
    """

    params: Any
    frozen: Any
    records: Any
    loss: Any
    optimizer: Any
    clipped_update: Callable[..., Any]

    def client(self, number: int) -> Any:
        """Returns the records of one client."""
        return jax.tree.map(lambda leaf: leaf[number], self.records)


@functools.cache
def make_clients(options: Options) -> Clients:
    """Makes the clients, once in each process."""
    split = draw_model(options.model, tuning="lora", rank=options.rank, loading=Loading())
    loss = CausalLanguage(vocab_chunk=None).loss_fn(split.graphdef)
    rng = np.random.default_rng(0)
    axes = (options.num_clients, options.num_batches, options.batch_size)
    vocab = CONFIGS[options.model]["vocab_size"]
    ids = rng.integers(vocab, size=(*axes, options.length)).astype(np.int32)
    everything = np.ones(ids.shape, np.bool_)
    records = jax.device_put(
        {
            "examples": LanguageBatch(ids, everything, everything),
            "mask": np.ones(axes, np.bool_),
        }
    )
    optimizer = optax.sgd(0.1)

    @jax.jit
    def clipped_update(params: Any, client: Any, frozen: Any) -> Any:
        update = local_update(loss, optimizer, params, client, frozen).update
        squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(update)]
        factor = jnp.minimum(1.0, _CLIP_NORM / jnp.sqrt(sum(squares)))
        return jax.tree.map(lambda leaf: -factor * leaf, update)

    return Clients(split.trainable, split.frozen, records, loss, optimizer, clipped_update)


def make_round(options: Options) -> dict[str, Callable[[], Any]]:
    """Returns what computes the clipped sum of a round, by name."""
    made = make_clients(options)
    params, frozen = made.params, made.frozen

    def loop() -> Any:
        total = jax.tree.map(jnp.zeros_like, params)
        for number in range(options.num_clients):
            update = made.clipped_update(params, made.client(number), frozen)
            total = jax.tree.map(jnp.add, total, update)
        return jax.block_until_ready(total)

    def at_once(number: int) -> Callable[[], Any]:
        @jax.jit
        def summed(params: Any, clients: Any, frozen: Any) -> Any:
            of_client = client_loss(made.loss, made.optimizer)
            clipped = clipped_grad(
                lambda params, client: of_client(params, client, frozen),
                clip_norm=_CLIP_NORM,
                strategy="materialize",
                microbatch_size=number,
            )
            return clipped(params, clients).grads

        return lambda: jax.block_until_ready(summed(params, made.records, frozen))

    ways = {f"one program, {number} at once": at_once(number) for number in options.at_once}
    return {LOOP: loop} | ways


def train_for_flower(options: Options, number: int, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the clipped update of a client, as the loop computes it, in a worker of Flower's.

    Args:
        options: of the benchmark.
        number: of the client.
        arrays: the leaves of the adapters.
    """
    made = make_clients(options)
    params = jax.tree.unflatten(jax.tree.structure(made.params), arrays)
    update = made.clipped_update(params, made.client(number), made.frozen)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(update)]


def measure(options: Options) -> list[dict[str, Any]]:
    """Returns a row for each way of computing a round."""
    runs, rows = make_round(options), []
    if not (options.flower and flower_is_installed() and jax.default_backend() == "cpu"):
        return _measured(options, runs)

    def with_flower(one_round: Round) -> None:
        params = make_clients(options).params
        arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]

        def round_of_flower() -> Any:
            return jax.tree.unflatten(jax.tree.structure(params), one_round(arrays))

        rows.extend(_measured(options, runs | {FLOWER: round_of_flower}))

    train = functools.partial(train_for_flower, options)
    in_simulation(train, options.num_clients, with_flower)
    return rows


def _measured(options: Options, runs: dict[str, Callable[[], Any]]) -> list[dict[str, Any]]:
    first = runs[LOOP]()
    seconds = time_in_turns(runs, options.repeats)
    rows = []
    for name, run in runs.items():
        difference = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), first, run())
        rows.append(
            {
                "way": name,
                "seconds": statistics.median(seconds[name]),
                "ratio": median_ratio(seconds[name], seconds[LOOP]),
                "largest_difference": max(jax.tree.leaves(difference)),
            }
        )
    return rows


def epsilons() -> dict[str, float]:
    """Returns ε of a usual run by the accountants that are installed."""
    run = DPSGD(num_units=5000, expected_batch_size=100, noise_multiplier=1.0, num_steps=100)
    found = {"dpjax, Poisson cohorts": run.epsilon(_DELTA)}
    everyone = dataclasses.replace(run, expected_batch_size=5000)
    found["dpjax, without amplification"] = everyone.epsilon(_DELTA)
    if importlib.util.find_spec("flwr") is not None:
        from flwr.supercore.privacy_accounting import (
            GaussianPrivacyEvent,
            NeighboringRelation,
            PrivacyConfig,
            SamplingMethod,
        )
        from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant

        accountant = RdpAccountant(
            PrivacyConfig(
                target_delta=_DELTA,
                population_size=5000,
                neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
                sampling_method=SamplingMethod.NO_AMPLIFICATION,
            )
        )
        event = GaussianPrivacyEvent(noise_multiplier=1.0, sample_size=100, population_size=5000)
        accountant.compose(event, 100)
        found["Flower, without amplification"] = accountant.get_epsilon(_DELTA)
    return found


def main(options: Options) -> None:
    """Measures, prints and writes."""
    rows = measure(options)
    table = Table("way", "seconds a round", "by the loop", "largest difference")
    for row in rows:
        numbers = (f"{row['seconds']:.3f}", f"{row['ratio']:.3f}")
        table.add_row(row["way"], *numbers, f"{row['largest_difference']:.1e}")
    console = Console()
    console.print(table)
    console.print("5,000 clients, 100 expected in each of 100 rounds, σ = 1, δ = 1e-5:")
    for name, epsilon in epsilons().items():
        console.print(f"  {name}: ε = {epsilon:.3f}", highlight=False)
    write_results(
        options.output,
        options,
        rows,
        keys=("way",),
        ratios=("ratio",),
        title="Seconds of a round, by a loop over clients",
    )
