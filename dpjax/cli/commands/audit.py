"""`dpjax audit`: what scores of canaries, or poisoned records, say about a claimed ε."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Self

import tyro
from dpjax_accounting import Mechanism, mechanism_from_dict, read_report, write_text
from rich.console import Console
from tyro.conf import Positional

from dpjax.basics.option_checks import CheckedOptions, check_all
from dpjax.cli.command import CommandOnFiles, Refusal
from dpjax.cli.commands.poison import AuditPoison


@dataclasses.dataclass(frozen=True)
class AuditScores:
    """Judge a claim by scores that any program computed; status 1 if they refute it."""

    members: Path
    """CSV file of the canaries that were in training, with the columns id and score; higher scores
    for members."""
    non_members: Path
    """CSV file of the canaries that a fair coin kept out."""
    delta: float | None = None
    """δ of the claim."""
    claimed_epsilon: float | None = None
    """ε of the claim; default: no privacy is claimed."""
    privacy_report: Path | None = None
    """privacy.json of the run: claim, δ and mechanism are read from it."""
    manifest: Path | None = None
    """Folder of the manifest.json that was written before training: its ids must all be there, and
    no other."""
    confidence: float = 0.95
    """A right claim is called a violation in at most 1 − confidence of audits."""
    score: str = "score"
    """What the score is called in the report."""
    json: bool = False
    """Print the report as JSON."""
    output: Path | None = None
    """Write the report to this JSON file, and a page beside it."""

    def run(self, console: Console) -> int:
        """Runs the audit and returns its exit status."""
        from dpjax import audit

        claim = self._claim()
        expected = None if self.manifest is None else audit.read_manifest(self.manifest).ids
        canaries = audit.join_scores(
            audit.read_scores(self.members),
            audit.read_scores(self.non_members),
            expected_ids=expected,
            score=self.score,
        )
        report = audit.build_audit_report(canaries, confidence=self.confidence, **claim)
        if self.output is not None:
            write_text(self.output, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
            write_text(self.output.with_suffix(".html"), audit.audit_page(report))
        if self.json:
            print(json.dumps(report, indent=1, ensure_ascii=False))
        else:
            console.print(
                audit.audit_markdown(report), highlight=False, markup=False, soft_wrap=True
            )
        return int(report["verdict"]["conclusion"] == "violation")

    def _claim(self) -> dict[str, Any]:
        """Returns δ, the claimed ε and the mechanism."""
        if self.privacy_report is None:
            if self.delta is None:
                raise Refusal("--delta is missing: give it, or the privacy.json of the run.")
            return {"delta": self.delta, "claimed_epsilon": self.claimed_epsilon}
        if self.delta is not None or self.claimed_epsilon is not None:
            raise Refusal(
                "--privacy-report holds the claim: leave out --delta and --claimed-epsilon."
            )
        report = read_report(self.privacy_report)
        if not report["private"]:
            raise Refusal(f"{self.privacy_report} claims no privacy: give --delta instead.")
        mechanism: Mechanism = mechanism_from_dict(report["mechanism"])
        guarantee = report["guarantee"]
        return {
            "delta": guarantee["delta"],
            "claimed_epsilon": guarantee["epsilon"],
            "mechanism": mechanism,
        }


@dataclasses.dataclass(frozen=True)
class VerifyAudit:
    """Compute every number of an audit report again; status 1 if one differs."""

    report: Positional[Path]
    """audit.json."""

    def run(self, console: Console) -> int:
        """Runs the command and returns its exit status."""
        from dpjax import audit

        problems = audit.verify_audit_report(audit.read_audit_report(self.report))
        for problem in problems:
            console.print(
                f"{self.report}: {problem}", highlight=False, markup=False, soft_wrap=True
            )
        if not problems:
            console.print(
                f"{self.report}: every number holds", highlight=False, markup=False, soft_wrap=True
            )
        return int(bool(problems))


@dataclasses.dataclass(frozen=True)
class ShowAudit:
    """Say an audit report in words, or several side by side; Markdown, or a page with pictures."""

    report: Positional[tuple[Path, ...]]
    """audit.json; several are compared, each under the name of its folder."""
    html: Path | None = None
    """Write a page to this file."""

    def run(self, console: Console) -> int:
        """Runs the command and returns 0."""
        from dpjax import audit

        if not self.report:
            raise Refusal("the audit.json to be shown is missing: name at least one.")
        reports = {path: audit.read_audit_report(path) for path in self.report}
        if len(reports) == 1:
            (report,) = reports.values()
            text = audit.audit_page(report) if self.html else audit.audit_markdown(report)
        else:
            named = {_name(path): report for path, report in reports.items()}
            if len(named) < len(reports):
                raise Refusal("the audit reports must lie in folders of different names.")
            text = audit.comparison_page(named) if self.html else audit.comparison_markdown(named)
        if self.html is None:
            console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            write_text(self.html, text)
        return 0


def _name(path: Path) -> str:
    """What an audit is called beside others."""
    return path.resolve().parent.name if path.name == "audit.json" else path.stem


@dataclasses.dataclass(frozen=True)
class AuditCommand(CommandOnFiles):
    """Judge a claimed ε by scores of canaries, verify such a judgement, or plant poison."""

    action: (
        Annotated[AuditScores, tyro.conf.subcommand("scores")]
        | Annotated[VerifyAudit, tyro.conf.subcommand("verify")]
        | Annotated[ShowAudit, tyro.conf.subcommand("show")]
        | Annotated[AuditPoison, tyro.conf.subcommand("poison")]
    )

    def prepare(self) -> Self:
        """Checks options, of an action that has options of its own to check; returns itself."""
        if isinstance(self.action, CheckedOptions):
            check_all(self.action)
        return self
