"""The command `python -m benchmarks NAME [options]`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.registry import BENCHMARKS, describe
from benchmarks.support.presets import choose_preset
from dpjax.basics.option_checks import CheckedOptions, check_all, checks_deferred, did_you_mean

_USAGE = "python -m benchmarks NAME [options]; NAME --help shows the options of one."


def main(arguments: Sequence[str]) -> int:
    """Runs one benchmark, or lists all of them; returns the exit status.

    Args:
        arguments: of the command line, without the program's name.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        table = Table("name", "what it measures", box=None)
        for name in BENCHMARKS:
            table.add_row(name, describe(name))
        Console().print(_USAGE, markup=False)
        Console().print(table)
        return 0
    name, *rest = arguments
    if name not in BENCHMARKS:
        hint = did_you_mean(name, BENCHMARKS)
        print(
            f"there is no benchmark {name!r}.{hint} `python -m benchmarks` lists them.",
            file=sys.stderr,
        )
        return 2
    module = importlib.import_module(f"benchmarks.{name}")
    try:
        options = parse(module, rest)
    except ValueError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    try:
        status: int | None = module.main(options)
    except FileNotFoundError as error:
        # Of data or a checkpoint that a benchmark needs; the message says how to get it.
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return status or 0


def parse(module: ModuleType, arguments: Sequence[str]) -> Any:
    """Returns the options of a benchmark: what is given, and else what the preset says.

    Args:
        module: of the benchmark.
        arguments: that follow its name.

    Raises:
        ValueError: an option does not fit.
        SystemExit: an option is unknown or no value of its type, or help was asked for.
    """
    presets = getattr(module, "PRESETS", None)
    # A benchmark without a default, such as one that reads a file, has options that must be given.
    default: dict[str, Any] = {}
    if presets is not None:
        preset = choose_preset(_asked_preset(arguments), presets)
        default = {"default": module.Options(preset=preset, **presets[preset])}
    with checks_deferred():
        options = tyro.cli(
            module.Options,
            args=list(arguments),
            prog=f"python -m benchmarks {module.__name__.rpartition('.')[2]}",
            description=module.__doc__,
            config=(tyro.conf.OmitArgPrefixes,),
            **default,
        )
    if isinstance(options, CheckedOptions):
        check_all(options)
    return options


def _asked_preset(arguments: Sequence[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset")
    preset: str | None = parser.parse_known_args(list(arguments))[0].preset
    return preset


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
