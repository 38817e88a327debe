"""One synthesis: check everything, draw until there are enough records, write and report."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from dpjax.synthesis.conditions import Columns, Condition, make_columns, make_conditions
from dpjax.synthesis.config import SynthesisConfig
from dpjax.synthesis.drawing.draws import Place, choose
from dpjax.synthesis.drawing.log import DrawLog
from dpjax.synthesis.drawing.progress import SynthesisProgress
from dpjax.synthesis.drawing.writer import PreparedPrompts, Writer, prepare_prompts
from dpjax.synthesis.finished_run import FinishedRun, read_run
from dpjax.synthesis.folder import FolderState, SynthesisFolder
from dpjax.synthesis.records_file import write_records
from dpjax.synthesis.report import describe, write_report
from dpjax.synthesis.result import SynthesisResult
from dpjax.training import Interrupts, describe_versions, stopping_on_file_errors, write_json

_SEED_BITS = 32
# None of them changes a record, but by rounding.
_FREE_OPTIONS = {"run", "output_dir", "batch_size", "resume", "allow_non_private"}
_FREE_OPTIONS |= {"compare_with", "test_data", "classifier"}
_STOPPED = "stopped; what is drawn is stored, and the same command with --resume goes on"


@dataclasses.dataclass(frozen=True)
class Synthesis:
    """A synthesis that has passed every check; no model is loaded yet.

    Attributes:
        config: what was asked for.
        run: whose model writes.
        conditions: what the records are written for.
        columns: of the records.
        prepared: the prompts as tokens.
        folder: where it writes.
        state: what the folder holds.
        seed: of all draws.
    """

    config: SynthesisConfig
    run: FinishedRun
    conditions: list[Condition]
    columns: Columns
    prepared: PreparedPrompts
    folder: SynthesisFolder
    state: FolderState
    seed: int

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same on resumption."""
        options = self.config.to_dict()
        kept = {name: options[name] for name in options if name not in _FREE_OPTIONS}
        identity: dict[str, Any] = {
            "run_id": self.run.privacy["run"]["id"],
            "options": json.loads(json.dumps(kept | {"seed": self.seed})),
            # The file of prompts may have changed.
            "prompts_sha256": _hash_of(self.conditions),
            "versions": describe_versions(),
        }
        return identity


def set_up(config: SynthesisConfig) -> Synthesis:
    """Does all that can fail because of what was asked: no model is loaded, nothing is written.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: what was wrong, the value seen, what to do.
    """
    run = read_run(config.run, allow_non_private=config.allow_non_private)
    folder = SynthesisFolder(
        config.output_dir, is_private=run.is_private, file_format=config.file_format
    )
    state = folder.state()
    if not config.resume:
        folder.check_free()
    elif state is FolderState.OTHER:
        raise FileNotFoundError(f"nothing to resume: output_dir {folder.path} holds {state.value}")
    columns, conditions = make_columns(config, run), make_conditions(config, run)
    for path in (config.compare_with, config.test_data):
        # Its records are read once there is something to compare with.
        if path is not None and not Path(path).expanduser().exists():
            raise FileNotFoundError(f"no file {Path(path).absolute()} to compare with")
    prepared = prepare_prompts(config, run, conditions)
    seed = secrets.randbits(_SEED_BITS) if config.seed is None else config.seed
    if state is FolderState.NEW:
        return Synthesis(config, run, conditions, columns, prepared, folder, state, seed)
    stored = folder.stored_identity()
    if config.seed is None:
        seed = stored["options"]["seed"]
    synthesis = Synthesis(config, run, conditions, columns, prepared, folder, state, seed)
    _check_same(stored, synthesis.identity)
    return synthesis


def execute(synthesis: Synthesis, console: Console | None = None) -> SynthesisResult:
    """Draws the records, writes them with their report, and compares them if that was asked.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; `resume` goes on.
        RunStopped: the disk is full.
        RunInUse: another process has the folder.
        FileNotFoundError, ValueError: what the records are compared with cannot be read. They are
            written already.
    """
    console = console or Console()
    folder = synthesis.folder
    with Interrupts() as interrupts, folder.lock():
        if folder.state() is not synthesis.state:
            raise FileExistsError(
                f"output_dir {folder.path} was changed by another process meanwhile; name a new "
                "folder, or give --resume"
            )
        if synthesis.state is not FolderState.FINISHED:
            for line in _headline(synthesis):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            with (
                interrupts.saying(_STOPPED, 0),
                stopping_on_file_errors("while records were written", "goes on from there"),
            ):
                _draw_and_write(synthesis, console)
        try:
            with interrupts.saying("stopped in the comparison; --resume makes it again", 0):
                comparison = _compare(synthesis, console)
        finally:
            # The records are written, whatever they are compared with.
            folder.finish()
    summary = json.loads(folder.summary.read_bytes())
    guarantee = synthesis.run.privacy["guarantee"] or {"epsilon": None, "delta": None}
    return SynthesisResult(
        output_dir=folder.path,
        records=folder.records,
        num_records=summary["records"]["written"],
        epsilon=guarantee["epsilon"],
        delta=guarantee["delta"],
        summary=summary,
        comparison=comparison,
    )


def _draw_and_write(synthesis: Synthesis, console: Console) -> None:
    folder, conditions = synthesis.folder, synthesis.conditions
    folder.start(synthesis.identity)
    with DrawLog(folder.draws) as log:
        _draw(synthesis, log, console)
        chosen = choose(conditions, log.draws, synthesis.config.max_tries)
        write_records(synthesis.folder, synthesis.columns, conditions, chosen.records, log.draws)
        longest = synthesis.prepared.max_new_tokens
        summary = describe(synthesis.run, folder, conditions, chosen, log.draws, longest)
        write_report(folder, summary | synthesis.identity)
        # Last: where it is, the records are whole.
        write_json(folder.summary, summary | synthesis.identity)


def _draw(synthesis: Synthesis, log: DrawLog, console: Console) -> None:
    config, conditions = synthesis.config, synthesis.conditions
    chosen = choose(conditions, log.draws, config.max_tries)
    if not chosen.missing:
        return
    writer = Writer(synthesis.run, synthesis.prepared, config, synthesis.seed)
    with SynthesisProgress(console, config.num, len(chosen.records)) as progress:
        while chosen.missing:
            for places in _parts(chosen.missing, config.batch_size):
                log.append(writer.write(places))
                progress.drawn(len(places))
            chosen = choose(conditions, log.draws, config.max_tries)
            progress.looked_at(len(chosen.records))


def _parts(places: list[Place], size: int) -> Iterator[list[Place]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _compare(synthesis: Synthesis, console: Console) -> dict[str, Any] | None:
    """Everything that looks at private records, in files of their own."""
    config = synthesis.config
    if config.compare_with is None and config.test_data is None:
        return None
    from dpjax.synthesis.comparison.compare import compare

    comparison = compare(synthesis.config, synthesis.run, synthesis.folder, synthesis.columns)
    console.print(
        f"PRIVATE, not to be published: {synthesis.folder.comparison_page} says how near the "
        "records are to private ones",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return comparison


def _headline(synthesis: Synthesis) -> list[str]:
    run, guarantee = synthesis.run, synthesis.run.privacy["guarantee"]
    what = f"{synthesis.config.num} records from {run.model}"
    if len(synthesis.conditions) > 1:
        what += f", for {len(synthesis.conditions)} prompts"
    if guarantee is None:
        return [what, "WARNING: the run has NO PRIVACY: its texts may hold training records"]
    return [
        what,
        f"they have the run's ε = {guarantee['epsilon']:.4g} at δ = {guarantee['delta']:.3g}, "
        "however many are drawn: no private record is read",
    ]


def _check_same(stored: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises ValueError with the first difference between what was started and what is given."""
    if stored["run_id"] != given["run_id"]:
        raise ValueError(
            f"cannot resume: it was started with the run {stored['run_id']}, this is "
            f"{given['run_id']}"
        )
    for part in ("options", "versions"):
        for name in {**stored[part], **given[part]}:
            was, now = stored[part].get(name), given[part].get(name)
            if was != now:
                raise ValueError(
                    f"cannot resume: it was started with {name}={was}, now it is {now}"
                )
    if stored["prompts_sha256"] != given["prompts_sha256"]:
        raise ValueError(
            "cannot resume: the prompts are not those that it was started with. Put a copy of "
            "their file back, or name a new folder"
        )


def _hash_of(conditions: list[Condition]) -> str:
    """SHA-256 of what the records are written for."""
    fields = [dataclasses.astuple(condition) for condition in conditions]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
