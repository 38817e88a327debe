"""What the loops of `fit` and `finetune` cost beside the compiled step, and what a state costs.

    python -m benchmarks loop_overhead

One model, one optimizer and one mechanism, trained by several loops in one process, which take
turns of a few steps: a bare loop, which calls the two compiled programs of a step on microbatches
that lie on the device already, and waits at the end of its turn only; `fit` without a folder; `fit`
with one; and `finetune`. They do the same steps on the same records. Each
turn is compared with the turn of the bare loop beside it: the time that passed, and the time that
processors worked for this process, which other work on the machine disturbs less.

Then `fit` with a folder takes turns with itself: in every other turn it stores its state. The
difference of the turns is the price of one state, which is paid once in 60 seconds by default.

All texts have the same number of tokens, so that each loop computes the same shapes.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import dpjax
from benchmarks.results_file import write_results
from dpjax.data import trim_padding
from dpjax.demo.checkpoint import find_minilm
from dpjax.demo.clinic import generate
from dpjax.finetuning import FinetuneConfig, execute, set_up
from dpjax.finetuning.setup.start import Run
from dpjax.finetuning.setup.steps import make_run_optimizer, make_steps
from dpjax.finetuning.training import loop
from dpjax.training import Fit

_WORDS_PER_TEXT = 12
_QUIET = Console(quiet=True)
_WARM_UP = 4
DEFAULT_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    tuning: Literal["full", "lora"] = "full"
    expected_batch_size: int = 32
    microbatch_size: int = 32
    max_length: int = 48
    num_records: int = 512
    steps_per_turn: int = 2
    num_turns: int = 30
    steps_per_saving_turn: int = 8
    num_saving_turns: int = 8
    """Of each kind, with a state and without."""
    num_steps: int = 1000
    """That are planned; few of them are done. To know ε after each takes a second in all."""
    output: Path = Path("benchmarks/results/loop_overhead.json")

    @property
    def num_done(self) -> int:
        """How many steps each loop does."""
        return _WARM_UP + self.num_turns * self.steps_per_turn


class Seconds(NamedTuple):
    """That passed, and that processors worked for this process."""

    passed: float
    worked: float

    @classmethod
    def now(cls) -> Seconds:
        """Reads both clocks."""
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.passed - other.passed, self.worked - other.worked)


class Turns:
    """A loop that does some steps when it is its turn, and waits for what it computes."""

    def __init__(self, steps: Iterator[Any]) -> None:
        self._steps = steps

    def take(self, num_steps: int) -> Seconds:
        """Does so many steps and returns what they took."""
        start = Seconds.now()
        for _ in range(num_steps):
            done = next(self._steps)
        jax.block_until_ready(done)
        return Seconds.now() - start


def write_texts(options: Options, folder: Path) -> dict[str, str]:
    """Writes texts that all have to be cut."""
    paths = {}
    for seed, name in enumerate(("train", "held_out")):
        records = generate(options.num_records * _WORDS_PER_TEXT, seed)
        paths[name] = str(folder / f"{name}.csv")
        with open(paths[name], "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            for row in range(options.num_records):
                part = records.texts[row * _WORDS_PER_TEXT : (row + 1) * _WORDS_PER_TEXT]
                writer.writerow((" ".join(part), records.labels[row]))
    return paths


def make_config(options: Options, folder: Path, paths: dict[str, str]) -> FinetuneConfig:
    """The run that all loops do."""
    return FinetuneConfig.from_options(
        {
            "model": str(find_minilm()),
            "train_data": paths["train"],
            "eval_data": paths["held_out"],
            "output_dir": str(folder / "finetune"),
            "tuning": options.tuning,
            "seed": 7,
            "privacy": {"noise_multiplier": 1.0},
            "training": {
                "expected_batch_size": options.expected_batch_size,
                "microbatch_size": options.microbatch_size,
                "max_length": options.max_length,
                "num_steps": options.num_steps,
                "learning_rate": 1e-5,
                # The price of a state is measured by itself.
                "checkpoint_every_seconds": 3600,
            },
        }
    )


class Texts:
    """The records as `finetune` hands them to the loss."""

    def __init__(self, run: Run) -> None:
        self._task, self._records = run.plan.task, run.plan.train

    def __len__(self) -> int:
        return len(self._records)

    def take(self, rows: np.ndarray) -> Any:
        """Returns a microbatch."""
        return self._task.batch(trim_padding(self._records.take(rows)))


def bare_loop(run: Run, num_steps: int) -> Iterator[Any]:
    """Calls the compiled programs on what lies on the device: no draws, no data, no look at it."""
    plan, texts, size = run.plan, Texts(run), run.plan.microbatch_size
    optimizer = make_run_optimizer(plan)
    steps = make_steps(plan, run.model.graphdef, optimizer, run.run_key)
    params = copied(run.model.trainable)
    state, frozen = optimizer.init(params), run.model.frozen
    batches, keys = [], []
    for step in range(num_steps):
        drawn = steps.batches(step, microbatch_size=size, order=lambda rows: rows)
        batches.append([jax.device_put((texts.take(rows), mask)) for rows, mask in drawn])
        keys.append(jax.device_put(run.run_key.noise_keys(step)))
    full = next(pieces[0] for pieces in batches if pieces)
    lowered = steps.lower(params, state, *full, frozen)
    add, update = lowered.add.compile(), lowered.update.compile()
    begin = jax.jit(lambda params: steps.begin(params, 0)[0])
    for step in range(num_steps):
        total = begin(params)
        for batch, mask in batches[step]:
            total = add(total, params, batch, mask, frozen)
        params, state = update((params, state), total.grads, keys[step])
        yield params, state


def fit_of(run: Run, **folder: Any) -> Fit:
    """The same run by `fit`."""
    plan = run.plan
    return dpjax.fit(
        plan.task.loss_fn(run.model.graphdef),
        run.model.trainable,
        Texts(run),
        mechanism=plan.mechanism,
        optimizer=make_run_optimizer(plan),
        clip_norm=plan.config.privacy.clip_norm,
        delta=plan.delta,
        frozen=run.model.frozen,
        run_key=run.run_key,
        microbatch_size=plan.microbatch_size,
        **folder,
    )


def states_of(run: Fit) -> Iterator[Any]:
    """Does the steps of a run of `fit`, and gives what each of them computes."""
    for done in run:
        yield done.params, done.state


def copied(params: Any) -> Any:
    """Returns parameters that a loop may take over."""
    return jax.tree.map(lambda leaf: jax.numpy.array(leaf, copy=True), params)


class _EnoughError(Exception):
    """All turns are taken."""


def measure_loops(options: Options, run: Run, others: dict[str, Turns]) -> dict[str, list[Seconds]]:
    """Runs `finetune`; between its turns the others take theirs. Returns the seconds of each."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in (*others, "finetune")}
    original = loop.run_steps

    def paced(*args: Any, **kwargs: Any) -> Iterator[Any]:
        num_done, start = 0, Seconds.now()
        for done in original(*args, **kwargs):
            yield done
            # The loop of finetune has done its work on this step.
            num_done += 1
            if num_done < _WARM_UP or (num_done - _WARM_UP) % options.steps_per_turn:
                continue
            jax.block_until_ready((done.params, done.state))
            if num_done > _WARM_UP:
                seconds["finetune"].append(Seconds.now() - start)
            for name, other in others.items():
                if num_done == _WARM_UP:
                    other.take(_WARM_UP)
                else:
                    seconds[name].append(other.take(options.steps_per_turn))
            if len(seconds["finetune"]) == options.num_turns:
                raise _EnoughError
            start = Seconds.now()

    loop.run_steps = paced
    try:
        with contextlib.suppress(_EnoughError):
            execute(run, _QUIET)
    finally:
        loop.run_steps = original
    return seconds


def measure_saving(options: Options, run: Run, folder: Path) -> list[Seconds]:
    """Returns how much longer turns take in which a state is stored, in seconds."""
    length = options.steps_per_saving_turn
    # A state is stored after the first step of every turn but the first.
    saving = fit_of(
        run,
        output_dir=folder / "saving",
        checkpoint_every_seconds=None,
        checkpoint_every_steps=length,
    )
    without = fit_of(run, output_dir=folder / "not_saving", checkpoint_every_seconds=None)
    turns = [Turns(states_of(saving)), Turns(states_of(without))]
    for other in turns:
        other.take(length - 1)
    pairs = [[other.take(length) for other in turns] for _ in range(options.num_saving_turns)]
    return [first - second for first, second in pairs]


def main(options: Options) -> None:
    """Measures, prints and writes."""
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # Each loop compiles the same programs.
        jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
        run = set_up(make_config(options, folder, write_texts(options, folder)))
        assert isinstance(run, Run)
        # Each loop takes over the parameters that it is given.
        kept = run.model.replace(trainable=copied(run.model.trainable))
        spare = dataclasses.replace(run, model=kept)
        others = {
            "bare": Turns(bare_loop(spare, options.num_done)),
            "fit": Turns(states_of(fit_of(spare))),
            "fit with a folder": Turns(
                states_of(fit_of(spare, output_dir=folder / "fit", checkpoint_every_seconds=3600))
            ),
        }
        seconds = measure_loops(options, run, others)
        rows = [
            describe(name, seconds[name], seconds["bare"], options.steps_per_turn)
            for name in (*others, "finetune")
        ]
        del others
        saved = measure_saving(options, spare, folder)
    state = {"loop": "one state", "bytes": _state_bytes(spare), "each": saved}
    for index, name in enumerate(Seconds._fields):
        state[name] = statistics.median(one[index] for one in saved)
    state["share"] = state["passed"] / DEFAULT_SECONDS
    table = Table(
        "loop", "seconds a step", "beside the bare loop", "of processor time", title="The loops"
    )
    for row in rows:
        overheads = (f"{100 * row[name]:+.1f} %" for name in ("overhead", "overhead_worked"))
        table.add_row(row["loop"], f"{row['seconds']:.3f}", *overheads)
    console.print(table)
    console.print(
        f"A state of {state['bytes'] / 1e6:.0f} MB costs {state['passed']:.2f} s of training and "
        f"{state['worked']:.2f} s of processors: {100 * state['share']:.1f} % of the time at one "
        f"in {DEFAULT_SECONDS:.0f} s"
    )
    # A few percent of noise in an overhead of one percent: no ratios that `compare` could read.
    write_results(options.output, options, [*rows, state], keys=("loop",))


def describe(
    name: str, seconds: list[Seconds], bare: list[Seconds], steps_per_turn: int
) -> dict[str, Any]:
    """Returns the medians of a loop's turns, beside which the bare loop has turns of its own."""
    pairs = list(zip(seconds, bare, strict=True))
    return {
        "loop": name,
        "seconds": statistics.median(one.passed for one in seconds) / steps_per_turn,
        "overhead": statistics.median(one.passed / other.passed for one, other in pairs) - 1,
        "overhead_worked": statistics.median(one.worked / other.worked for one, other in pairs) - 1,
        "each": seconds,
    }


def _state_bytes(run: Run) -> int:
    trainable = run.model.trainable
    state = jax.eval_shape(make_run_optimizer(run.plan).init, trainable)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((trainable, state)))
