"""unlearning.json and report.md: what the models know of which records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MODELS = ("original", "unlearned", "retrained")
_PARTS = {"forget": "forget set", "retain": "retained", "held_out": "held out"}
_MEASURES = {
    "loss": "loss, nats per token",
    "rouge_l": "ROUGE-L",
    "exact_memorisation": "exact memorisation",
    "extraction_strength": "extraction strength",
}


def render_report(report: Mapping[str, Any]) -> str:
    """Returns report.md of the contents of unlearning.json."""
    forget, verdict = report["forget_set"], report["verdict"]
    options = ", ".join(f"{k} {v:g}" for k, v in report["method"]["options"].items() if v)
    certificate, truth = report["certificate"], report["truth_ratio"]
    rows = [
        ("Verdict", _verdict(verdict)),
        ("Method", f"{report['method']['name']}" + (f" ({options})" if options else "")),
        ("Steps", f"{report['method']['num_steps']}"),
        ("Forget set", f"{forget['records']} records with copies, {forget['named']} named"),
        ("Retained", f"{forget['retained']} records"),
        ("Run", _line(f"{report['run']['id']}, of {report['run']['base_model']}")),
    ]
    sections = [
        "# Unlearning",
        f"> **{report['warning']}**",
        _table(("", ""), rows),
        *[f"> **Over-unlearned.** {_sentence(text)}" for text in verdict["over_reasons"]],
        *[f"> **Under-unlearned.** {_sentence(text)}" for text in verdict["under_reasons"]],
        *([] if certificate is None else _certificate(certificate)),
        "## What the models know",
        _measures(report["models"]),
        "Means over records. Exact memorisation: the share of tokens that are the most probable "
        "given the record before them (Tirumala et al. 2022). Extraction strength: the share of a "
        "record that greedy decoding writes, given the rest before it (Carlini et al. 2021). "
        f"Relearned: the loss on the forget set after {report['relearn_steps']} steps of tuning "
        "on it.",
        *([] if truth is None else [_truth_ratio(truth, report["models"])]),
        "## The attack",
        _attack(verdict),
        verdict["rule"],
        _controls(report["controls"]),
        "## What the run has promised",
        report["promise"]["statement"],
        "## Not covered",
        "\n".join(f"- {line}" for line in report["not_covered"]),
    ]
    return "\n\n".join(sections) + "\n"


def _verdict(verdict: Mapping[str, Any]) -> str:
    flags = _flags(verdict)
    if flags:
        return " and ".join(flags).upper()
    if verdict["difference"] is None:
        return "nothing shows that the forget set is known; no retrained model to compare with"
    return "not told from the retrained model by these measures"


def _measures(models: Mapping[str, Any]) -> str:
    present = [name for name in _MODELS if models[name] is not None]
    rows = [
        (f"{what}, {title}", *(f"{models[model][part][measure]:.3f}" for model in present))
        for measure, title in _MEASURES.items()
        for part, what in _PARTS.items()
    ]
    relearnt = (f"{models[model]['relearnt_loss']:.3f}" for model in present)
    return _table(("", *present), [*rows, ("forget set, loss relearned", *relearnt)])


def _attack(verdict: Mapping[str, Any]) -> str:
    low, high = verdict["auc_interval"]
    text = (
        "The attack compares the probability of a record with that under the base (ratio score). "
        f"Forget set against held-out records it has AUC {verdict['auc']:.3f}, interval "
        f"{low:.3f} to {high:.3f}"
    )
    if verdict["difference"] is None:
        return f"{text}; without a retrained model there is nothing to subtract."
    low, high = verdict["difference_interval"]
    return (
        f"{text}, and on the retrained model {verdict['retrained_auc']:.3f}. The difference is "
        f"{verdict['difference']:+.3f}, interval {low:+.3f} to {high:+.3f} (DeLong, paired)."
    )


def _controls(controls: Mapping[str, Any]) -> str:
    """What the rule says of models whose answer is known."""
    if controls["original"]["under_unlearned"]:
        text = "Controls: by this rule the original model is under-unlearned, as it should be."
    else:
        text = (
            "Controls: by this rule the original model is *not* under-unlearned: these records "
            "cannot show that a model still knows the forget set."
        )
    if "retrained" not in controls:
        return text
    flags = _flags(controls["retrained"])
    if not flags:
        return f"{text} The retrained model, judged without a baseline, has no flag, as it should."
    return (
        f"{text} The retrained model, judged without a baseline, is {' and '.join(flags)}, though "
        "it never saw the forget set: these records do not suit the rule."
    )


def _flags(verdict: Mapping[str, Any]) -> list[str]:
    names = ("over_unlearned", "under_unlearned")
    return [name.replace("_", "-") for name in names if verdict[name]]


def _certificate(certificate: Mapping[str, Any]) -> list[str]:
    steps = certificate["steps"]
    return [
        "## Certificate",
        certificate["statement"],
        f"μ = {certificate['mu']:.4g}, from T = {steps['num_steps']} steps with "
        f"C₀ = {steps['start_norm']:g}, C₁ = {steps['gradient_norm']:g}, "
        f"η = {steps['learning_rate']:g}, λ = {steps['weight_decay']:g} and "
        f"s = {steps['noise_stddev']:.4g}.",
        "\n".join(f"- {line}" for line in certificate["conditions"]),
    ]


def _truth_ratio(truth: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    medians = ", ".join(
        f"{name} {models[name]['truth_ratio']:.3f}" for name in _MODELS if models[name] is not None
    )
    text = (
        f"Truth ratio, median of {truth['questions']} questions: {medians}. It is the mean "
        "probability of wrong answers over that of the right answer in other words, per token "
        "(Maini et al. 2024, equation 1): small where the fact is known."
    )
    if truth["forget_quality"] is None:
        return text
    quality = truth["forget_quality"]
    return (
        f"{text} Forget quality, the p-value of the test of Kolmogorov and Smirnov against the "
        f"retrained model: {quality['p_value']:.3g} (distance {quality['statistic']:.3f})."
    )


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _line(text: str) -> str:
    """Any text inside a cell of a Markdown table, without HTML."""
    return " ".join(text.replace("<", "&lt;").replace("|", "\\|").split())
