"""`dpjax epsilon` and `dpjax calibrate`: the accountant without a run."""

from __future__ import annotations

import dataclasses
import json

from dpjax_accounting import (
    DPSGD,
    best_guess_accuracy,
    calibrate_dpsgd,
    compare,
    default_delta,
    posterior_belief,
    validate_delta,
)
from rich.console import Console
from rich.table import Table

from dpjax.cli.command import Refusal, refusing


@dataclasses.dataclass(frozen=True)
class EpsilonCommand:
    """Print the ε of a DP-SGD run with Poisson sampling."""

    num_units: int
    """Training records."""
    expected_batch_size: float
    """Mean size of a Poisson batch."""
    noise_multiplier: float
    """Standard deviation of the noise divided by the clip norm."""
    num_steps: int
    """Optimizer steps."""
    delta: float | None = None
    """δ; default: 1e-5, or n^-1.1 for n records if that is smaller."""
    json: bool = False
    """Print JSON, with ε by both accountants."""

    def prepare(self) -> Guarantee:
        """Checks every number and returns the mechanism that they describe."""
        delta = _chosen_delta(self.delta, self.num_units)
        mechanism = DPSGD(
            num_units=self.num_units,
            expected_batch_size=self.expected_batch_size,
            noise_multiplier=self.noise_multiplier,
            num_steps=self.num_steps,
        )
        return Guarantee(mechanism, delta, self.json)


@dataclasses.dataclass(frozen=True)
class CalibrateCommand:
    """Print the missing one of noise, batch size and steps that keeps a run within a target ε."""

    target_epsilon: float
    """The ε that is not to be exceeded."""
    num_units: int
    """Training records."""
    expected_batch_size: float | None = None
    """Mean size of a Poisson batch; leave it out to get the largest whole one."""
    noise_multiplier: float | None = None
    """Standard deviation of the noise over the clip norm; leave it out to get the least."""
    num_steps: int | None = None
    """Optimizer steps; leave them out to get the most."""
    delta: float | None = None
    """δ; default: 1e-5, or n^-1.1 for n records if that is smaller."""
    json: bool = False
    """Print JSON, with ε by both accountants."""

    def prepare(self) -> Guarantee:
        """Searches for the option that is left out and returns the mechanism with it."""
        delta = _chosen_delta(self.delta, self.num_units)
        self._check_one_is_left_out()
        try:
            mechanism = calibrate_dpsgd(
                self.target_epsilon,
                delta,
                num_units=self.num_units,
                expected_batch_size=self.expected_batch_size,
                noise_multiplier=self.noise_multiplier,
                num_steps=self.num_steps,
            )
        except ArithmeticError as error:
            raise Refusal(
                f"--target-epsilon {self.target_epsilon:g} cannot be met: {error}"
            ) from error
        return Guarantee(mechanism, delta, self.json)

    def _check_one_is_left_out(self) -> None:
        options = {
            "--expected-batch-size": self.expected_batch_size,
            "--noise-multiplier": self.noise_multiplier,
            "--num-steps": self.num_steps,
        }
        missing = [name for name, value in options.items() if value is None]
        if len(missing) != 1:
            raise ValueError(
                f"calibrate computes the one of {', '.join(options)} that is left out. Left out:"
                f" {', '.join(missing) or 'none'}. Give exactly two of them"
                f"{'' if missing else ', or ask `dpjax epsilon` for the epsilon of all three'}."
            )


@dataclasses.dataclass(frozen=True)
class Guarantee:
    """A mechanism and the δ at which its guarantee is printed."""

    mechanism: DPSGD
    delta: float
    as_json: bool

    def run(self, console: Console) -> int:
        """Prints the guarantee, as a table or as JSON, and returns 0.

        Raises:
            Refusal: the loss is too large to account for, or δ too small.
        """
        with refusing():
            accuracy = best_guess_accuracy(self.mechanism)
            belief = posterior_belief(self.mechanism, self.delta)
            if self.as_json:
                self._print_json(accuracy, belief)
            else:
                console.print(self._table(accuracy, belief))
        return 0

    def _print_json(self, accuracy: float, belief: float) -> None:
        comparison = compare(self.mechanism, self.delta)
        values = {
            "epsilon": comparison.pld,
            "epsilon_renyi": comparison.rdp,
            "delta": self.delta,
            "best_guess_accuracy": accuracy,
            "posterior_belief": belief,
        }
        print(json.dumps(values | {"mechanism": self.mechanism.to_dict()}, indent=2))

    def _table(self, accuracy: float, belief: float) -> Table:
        mechanism = self.mechanism
        table = Table("quantity", "value")
        table.add_row("epsilon", f"{mechanism.epsilon(self.delta):.6g}")
        table.add_row("delta", f"{self.delta:.6g}")
        table.add_row("best guess who took part, at even odds", f"right in at most {accuracy:.2%}")
        table.add_row("belief after all but delta of outputs", f"at most {belief:.6g}")
        table.add_row("noise multiplier", f"{mechanism.noise_multiplier:.6g}")
        table.add_row("expected batch size", f"{mechanism.expected_batch_size:g}")
        table.add_row("sampling", mechanism.sampling)
        table.add_row("sampling probability", f"{mechanism.sampling_probability:.6g}")
        table.add_row("steps", str(mechanism.num_steps))
        table.add_row("privacy unit", mechanism.unit)
        table.add_row("neighbouring relation", mechanism.neighboring)
        return table


def _chosen_delta(delta: float | None, num_units: int) -> float:
    return validate_delta(default_delta(num_units) if delta is None else delta, num_units)
