"""The command `dpjax`: finetune, epsilon, calibrate, report, ledger, demo."""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import tyro
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

from dpjax import startup
from dpjax.cli.report_and_ledger import LedgerCommand, ReportCommand
from dpjax.finetuning import FinetuneConfig, Interrupts, RunDirectory, RunState, RunStopped
from dpjax.option_checks import CheckedOptions, check_all, checks_deferred

_FAILED = 1
_USAGE_ERROR = 2


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


@dataclasses.dataclass(frozen=True)
class DemoCommand:
    """Tune MiniLM on generated clinic messages, privately and not, and compare."""

    output_dir: str = "runs/demo"
    """New folder for both runs."""


Command = (
    Annotated[FinetuneConfig, tyro.conf.subcommand("finetune")]
    | Annotated[EpsilonCommand, tyro.conf.subcommand("epsilon")]
    | Annotated[CalibrateCommand, tyro.conf.subcommand("calibrate")]
    | Annotated[ReportCommand, tyro.conf.subcommand("report")]
    | Annotated[LedgerCommand, tyro.conf.subcommand("ledger")]
    | Annotated[DemoCommand, tyro.conf.subcommand("demo")]
)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    0 done, 1 a privacy report does not hold, or a run stopped that can be resumed, or something
    failed that should not, 2 something asked for does not fit (said in one line), 130 or 143
    interrupted by Ctrl-C or SIGTERM.
    """
    command = None
    startup.finish()
    with Interrupts() as interrupts:
        try:
            command = _parse(arguments)
            return _run(command, interrupts)
        except KeyboardInterrupt as error:
            number = getattr(error, "signal_number", None) or interrupts.acknowledge()
            said = str(error) or "interrupted; nothing was started or changed"
            print(f"dpjax: {said}", file=sys.stderr)
            return 128 + number
        except RunStopped as error:
            print(f"dpjax: {error}", file=sys.stderr)
            return _FAILED
        except OSError as error:
            return _refuse(error)
        except Exception as error:
            return _say_fault(error, command)


def _parse(arguments: list[str] | None) -> Any:
    try:
        with checks_deferred():
            command = tyro.cli(
                Command,
                prog="dpjax",
                args=arguments,
                config=(tyro.conf.OmitSubcommandPrefixes,),
            )
        if isinstance(command, CheckedOptions):
            check_all(command)
        return command
    except (ValueError, TypeError) as error:
        raise SystemExit(_refuse(error)) from error


def _run(command: Any, interrupts: Interrupts) -> int:
    interrupts.raise_pending()
    action, check = _ACTIONS[type(command)]
    try:
        ready = check(command)
    except (ValueError, TypeError, OSError) as error:
        return _refuse(error)
    # Whatever dropped a KeyboardInterrupt, nothing is started after it.
    interrupts.raise_pending()
    return action(ready) or 0


def _run_on_records(command: ReportCommand | LedgerCommand) -> int:
    try:
        return command.action.run()
    except (ValueError, TypeError, OSError) as error:
        return _refuse(error)


def _refuse(error: Exception) -> int:
    print(f"dpjax: error: {error}", file=sys.stderr)
    return _USAGE_ERROR


def _say_fault(error: Exception, command: Any) -> int:
    """Says what nobody foresaw in a sentence, and then where it happened."""
    kind = type(error).__name__
    message = " ".join(str(error).split())
    said = f"{kind}: {message}" if message else kind
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in message:
        advice = (
            "The memory is too small: lower training.microbatch_size or training.max_length, or "
            "set compute.rematerialise."
        )
    else:
        advice = (
            "This is a fault of dpjax or of what it runs on; please report it with the lines below."
        )
    print(f"dpjax: {said}. {advice}{_what_is_left(command)}", file=sys.stderr)
    traceback.print_exception(error)
    return _FAILED


def _what_is_left(command: Any) -> str:
    if not isinstance(command, FinetuneConfig):
        return ""
    try:
        state = RunDirectory(command.output_dir).state()
    except OSError:
        return ""
    if state in (RunState.UNFINISHED, RunState.MEASURED):
        return " What is saved of the run stays: the same command with --resume goes on from there."
    if state is RunState.FAILED:
        return (
            " No state of the run had been saved; once the reason is gone, --overwrite starts it "
            "afresh."
        )
    return " Nothing of the run had been started."


def _check_finetune(config: FinetuneConfig) -> Any:
    from dpjax.finetuning import set_up

    return set_up(config)


def _finetune(run: Any) -> None:
    from dpjax.finetuning import execute

    console = Console()
    result = execute(run, console)
    table = Table("result", "value")
    if result.quality is not None:
        table.add_row(*result.quality)
    privacy = "NO PRIVACY" if result.epsilon is None else f"ε = {result.epsilon:.4g}"
    table.add_row(
        "privacy", privacy if result.delta is None else f"{privacy}, δ = {result.delta:g}"
    )
    total = result.privacy["dataset_total"]
    if total is not None:
        table.add_row("all runs in the ledger", f"ε = {total['epsilon']:.4g}")
    if result.attack is not None:
        low, high = result.attack.auc_interval
        table.add_row("attack AUC (95 %)", f"{result.attack.auc:.3f} ({low:.3f} to {high:.3f})")
    table.add_row("tuned model", str(result.output_dir / "model"))
    table.add_row("report", str(result.output_dir / "report.md"))
    console.print(table)


def _check_epsilon(command: EpsilonCommand) -> tuple[DPSGD, float, bool]:
    delta = default_delta(command.num_units) if command.delta is None else command.delta
    validate_delta(delta, command.num_units)
    return (
        DPSGD(
            num_units=command.num_units,
            expected_batch_size=command.expected_batch_size,
            noise_multiplier=command.noise_multiplier,
            num_steps=command.num_steps,
        ),
        delta,
        command.json,
    )


def _check_calibrate(command: CalibrateCommand) -> tuple[DPSGD, float, bool]:
    delta = default_delta(command.num_units) if command.delta is None else command.delta
    validate_delta(delta, command.num_units)
    return _calibrated(command, delta), delta, command.json


def _calibrated(command: CalibrateCommand, delta: float) -> DPSGD:
    options = {
        "--expected-batch-size": command.expected_batch_size,
        "--noise-multiplier": command.noise_multiplier,
        "--num-steps": command.num_steps,
    }
    missing = [name for name, value in options.items() if value is None]
    if len(missing) != 1:
        raise ValueError(
            f"calibrate computes the one of {', '.join(options)} that is left out. Left out:"
            f" {', '.join(missing) or 'none'}. Give exactly two of them"
            f"{'' if missing else ', or ask `dpjax epsilon` for the epsilon of all three'}."
        )
    return calibrate_dpsgd(
        command.target_epsilon,
        delta,
        num_units=command.num_units,
        expected_batch_size=command.expected_batch_size,
        noise_multiplier=command.noise_multiplier,
        num_steps=command.num_steps,
    )


def _print_mechanism(ready: tuple[DPSGD, float, bool]) -> None:
    mechanism, delta, as_json = ready
    accuracy, belief = best_guess_accuracy(mechanism), posterior_belief(mechanism, delta)
    if as_json:
        both = compare(mechanism, delta)
        values = {"epsilon": both.pld, "epsilon_renyi": both.rdp, "delta": delta}
        values |= {"best_guess_accuracy": accuracy, "posterior_belief": belief}
        print(json.dumps(values | {"mechanism": mechanism.to_dict()}, indent=2))
        return
    table = Table("quantity", "value")
    table.add_row("epsilon", f"{mechanism.epsilon(delta):.6g}")
    table.add_row("delta", f"{delta:.6g}")
    table.add_row("best guess who took part, at even odds", f"right in at most {accuracy:.2%}")
    table.add_row("belief after all but delta of outputs", f"at most {belief:.6g}")
    table.add_row("noise multiplier", f"{mechanism.noise_multiplier:.6g}")
    table.add_row("expected batch size", f"{mechanism.expected_batch_size:g}")
    table.add_row("sampling", mechanism.sampling)
    table.add_row("sampling probability", f"{mechanism.sampling_probability:.6g}")
    table.add_row("steps", str(mechanism.num_steps))
    table.add_row("privacy unit", mechanism.unit)
    table.add_row("neighbouring relation", mechanism.neighboring)
    Console().print(table)


def _check_demo(command: DemoCommand) -> Any:
    from dpjax.demo.run import check

    return check(command.output_dir)


def _demo(ready: Any) -> None:
    from dpjax.demo.run import execute

    execute(ready, Console())


def _unchecked(command: Any) -> Any:
    return command


_ACTIONS: dict[type, tuple[Callable[[Any], int | None], Callable[[Any], Any]]] = {
    FinetuneConfig: (_finetune, _check_finetune),
    EpsilonCommand: (_print_mechanism, _check_epsilon),
    CalibrateCommand: (_print_mechanism, _check_calibrate),
    DemoCommand: (_demo, _check_demo),
    ReportCommand: (_run_on_records, _unchecked),
    LedgerCommand: (_run_on_records, _unchecked),
}

if __name__ == "__main__":
    sys.exit(main())
