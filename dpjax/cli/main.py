"""The command `dpjax`, with its commands finetune, plan, synthesize, and others."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import tyro
from rich.console import Console

from dpjax.basics.option_checks import CheckedOptions, check_all, checks_deferred
from dpjax.cli import startup
from dpjax.cli.command import Command, Refusal
from dpjax.cli.commands.accountant import CalibrateCommand, EpsilonCommand
from dpjax.cli.commands.audit import AuditCommand
from dpjax.cli.commands.demo import DemoCommand
from dpjax.cli.commands.federated import FederatedCommand
from dpjax.cli.commands.finetune import FinetuneCommand
from dpjax.cli.commands.model_folders import ConvertGgufCommand, MergeAdaptersCommand
from dpjax.cli.commands.plan import PlanCommand
from dpjax.cli.commands.report_and_ledger import LedgerCommand, ReportCommand
from dpjax.cli.commands.synthesize import SynthesizeCommand
from dpjax.cli.commands.unlearn import UnlearnCommand
from dpjax.cli.numbers import NUMBERS
from dpjax.federated import FederatedConfig
from dpjax.finetuning import FinetuneConfig, Interrupts, RunStopped

_FAILED = 1
_USAGE_ERROR = 2


Options = (
    Annotated[FinetuneConfig, tyro.conf.subcommand("finetune")]
    | Annotated[PlanCommand, tyro.conf.subcommand("plan")]
    | Annotated[FederatedConfig, tyro.conf.subcommand("federated")]
    | Annotated[SynthesizeCommand, tyro.conf.subcommand("synthesize")]
    | Annotated[UnlearnCommand, tyro.conf.subcommand("unlearn")]
    | Annotated[AuditCommand, tyro.conf.subcommand("audit")]
    | Annotated[EpsilonCommand, tyro.conf.subcommand("epsilon")]
    | Annotated[CalibrateCommand, tyro.conf.subcommand("calibrate")]
    | Annotated[ReportCommand, tyro.conf.subcommand("report")]
    | Annotated[LedgerCommand, tyro.conf.subcommand("ledger")]
    | Annotated[DemoCommand, tyro.conf.subcommand("demo")]
    | Annotated[ConvertGgufCommand, tyro.conf.subcommand("convert-gguf")]
    | Annotated[MergeAdaptersCommand, tyro.conf.subcommand("merge-adapters")]
)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    0 done, 1 a report does not hold, an audit refutes a claim, a run stopped that can be resumed,
    or something failed that should not, 2 something asked for does not fit (said in one line), 130
    or 143 interrupted by Ctrl-C or SIGTERM.
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
        except (OSError, Refusal) as error:
            return _refuse(error)
        except Exception as error:
            return _say_fault(error, command)


def _parse(arguments: list[str] | None) -> Command:
    try:
        with checks_deferred(), NUMBERS:
            options = tyro.cli(
                Options,
                prog="dpjax",
                args=arguments,
                config=(tyro.conf.OmitSubcommandPrefixes,),
            )
        if isinstance(options, CheckedOptions):
            check_all(options)
    except (ValueError, TypeError) as error:
        raise SystemExit(_refuse(error)) from error
    if isinstance(options, PlanCommand):
        return options
    if isinstance(options, FederatedConfig):
        return FederatedCommand(options)
    return FinetuneCommand(options) if isinstance(options, FinetuneConfig) else options


def _run(command: Command, interrupts: Interrupts) -> int:
    interrupts.raise_pending()
    try:
        ready = command.prepare()
    except (ValueError, TypeError, OSError) as error:
        return _refuse(error)
    # Whatever dropped a KeyboardInterrupt, nothing is started after it.
    interrupts.raise_pending()
    return ready.run(Console())


def _refuse(error: Exception) -> int:
    print(f"dpjax: error: {error}", file=sys.stderr)
    return _USAGE_ERROR


def _say_fault(error: Exception, command: Command | None) -> int:
    """Says what nobody foresaw in a sentence, and then where it happened."""
    kind = type(error).__name__
    message = " ".join(str(error).split())
    said = f"{kind}: {message}" if message else kind
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in message:
        advice = (
            "The memory is too small: give training.microbatch_size=auto or a lower number, lower "
            "training.max_length, or set compute.rematerialise."
        )
        if isinstance(command, FederatedCommand):
            advice = (
                "The memory is too small: give a lower --clients.clients-at-once or "
                "--clients.local-batch-size, lower training.max_length, or set "
                "compute.rematerialise."
            )
        if isinstance(command, SynthesizeCommand):
            advice = "The memory is too small: give --resume and a lower --batch-size."
    else:
        advice = (
            "This is a fault of dpjax or of what it runs on; please report it with the lines below."
        )
    runs = (FinetuneCommand, FederatedCommand)
    left = command.what_is_left() if isinstance(command, runs) else ""
    print(f"dpjax: {said}. {advice}{left}", file=sys.stderr)
    traceback.print_exception(error)
    return _FAILED


if __name__ == "__main__":
    sys.exit(main())
