"""`dpjax plan`: what a run would cost, before anything is loaded or spent."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.table import Table

from dpjax.cli.command import refusing
from dpjax.finetuning import PlanConfig

if TYPE_CHECKING:
    from dpjax.finetuning import Forecast


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanCommand(PlanConfig):
    """Say what a run would cost in noise, memory and time; nothing is trained or written.

    It takes the options of finetune. Without a model it plans the noise alone.
    """

    picture: Path | None = None
    """Draw noise against batch size into this PNG file."""
    json: bool = False
    """Print JSON."""

    def prepare(self) -> Self:
        """Returns itself: files are read when it runs."""
        return self

    def run(self, console: Console) -> int:
        """Prints the forecast and returns 0.

        Raises:
            OSError, Refusal: something given does not exist or does not fit.
        """
        from dpjax.finetuning import make_forecast, plot_noise

        with refusing():
            forecast = make_forecast(self)
            if self.picture is not None:
                plot_noise(forecast, self.picture)
        if self.json:
            print(json.dumps(forecast.to_dict(), indent=2, ensure_ascii=False))
            return 0
        if forecast.asked is not None:
            console.print(_noise_table(forecast))
        if forecast.model is not None:
            console.print(_model_table(forecast))
        for sentence in forecast.advice:
            console.print(f"* {sentence}", highlight=False, markup=False, soft_wrap=True)
        return 0


def _noise_table(forecast: Forecast) -> Table:
    model, asked = forecast.model, forecast.asked
    assert asked is not None
    is_gaussian = asked.stddev_over_multiplier == 1
    table = Table(
        "batch size",
        "steps",
        "noise multiplier σ" if is_gaussian else "noise multiplier b (Laplace)",
        "σ / B" if is_gaussian else "√2 b / B",
        title=f"{forecast.num_units} records, δ = {forecast.delta:.3g}",
    )
    if model is not None:
        table.add_column("norm of noise / C")
    table.add_column("ε")
    has_time = model is not None and model.seconds is not None
    if has_time:
        table.add_column("time")
    choices = {choice.expected_batch_size: choice for choice in forecast.choices}
    choices[asked.expected_batch_size] = asked
    for size, choice in sorted(choices.items()):
        row = [
            f"{size}" + (" (this run)" if choice is asked else ""),
            str(choice.num_steps),
            f"{choice.noise_multiplier:.4g}",
            f"{choice.relative_noise:.3g}",
        ]
        if model is not None:
            row.append(f"{choice.relative_norm(model.num_trained):.3g}")
        row.append(f"{choice.epsilon:.4g}")
        if model is not None and has_time:
            row.append(_time(model.seconds_of_run(size, choice.num_steps)))
        table.add_row(*row)
    return table


def _model_table(forecast: Forecast) -> Table:
    from dpjax.training import in_words

    model = forecast.model
    assert model is not None
    memory = model.memory
    table = Table("model", "value")
    table.add_row("trained parameters", f"{model.num_trained:,}")
    table.add_row("frozen parameters", f"{model.num_frozen:,}")
    table.add_row("records of a microbatch", f"{memory.microbatch_size}")
    table.add_row("tokens of a record, at most", f"{model.max_length}")
    table.add_row("memory of a step", in_words(memory.peak))
    table.add_row("of it parameters, sums, optimizer", in_words(memory.held))
    limit = "not known" if model.limit is None else in_words(model.limit)
    table.add_row("memory that may be used", limit)
    table.add_row("memory according to", f"the programs compiled for {model.backend}")
    time = "not known: --measure runs one step"
    if model.seconds is not None:
        time = "one step on zeros, every record with the most tokens"
    table.add_row("time according to", time)
    return table


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"
