"""report.md: the run on one page, with pictures."""

from __future__ import annotations

from pathlib import Path

from dpjax_accounting import write_text

from dpjax.audit import plot_roc, plot_training, render_attack_section
from dpjax.finetuning.config import FinetuneConfig, Training
from dpjax.finetuning.files.run_directory import RunDirectory
from dpjax.finetuning.reports.privacy_report import in_words
from dpjax.finetuning.result import FinetuneResult, Sample
from dpjax.finetuning.setup.plan import Plan
from dpjax.models import revision_of
from dpjax.privatize import describe_sampling


def draw_training(directory: RunDirectory, plan: Plan, result: FinetuneResult) -> None:
    """Draws training.png: loss and ε over the steps."""
    with_loss = [row for row in result.metrics if row["loss"] is not None]
    epsilon = None
    if result.epsilon is not None:
        epsilon = [row["epsilon"] for row in with_loss]
    plot_training(
        [row["step"] for row in with_loss],
        [row["loss"] for row in with_loss],
        directory.training_picture,
        epsilon=epsilon,
        target_epsilon=plan.config.privacy.target_epsilon,
    )


def draw_roc(directory: RunDirectory, result: FinetuneResult) -> None:
    """Draws roc.png: the attack, if it was made."""
    if result.attack is None:
        return
    name = "not private" if result.epsilon is None else f"ε = {result.epsilon:.3g}"
    plot_roc(
        {name: result.attack},
        directory.roc_picture,
        epsilon=result.epsilon,
        delta=result.delta,
    )


def write_report(directory: RunDirectory, plan: Plan, result: FinetuneResult) -> None:
    """Writes report.md with the pictures that are there."""
    write_text(directory.report, _markdown(directory, plan, result))


def write_short_report(directory: RunDirectory, plan: Plan, result: FinetuneResult) -> None:
    """Writes a report.md that says what was promised and what failed, and nothing else."""
    sections = [f"# {_title(result)}", in_words(plan, plan.num_steps), *_warnings(result)]
    write_text(directory.report, "\n\n".join(sections) + "\n")


def _title(result: FinetuneResult) -> str:
    return "Fine-tuning WITHOUT privacy" if result.epsilon is None else "Private fine-tuning"


def _warnings(result: FinetuneResult) -> list[str]:
    return [
        f"> **Warning.** {_line(text)}" for text in (*result.privacy["warnings"], *result.warnings)
    ]


def _picture(path: Path, title: str) -> list[str]:
    return [f"![{title}]({path.name})"] if path.exists() else []


def _markdown(directory: RunDirectory, plan: Plan, result: FinetuneResult) -> str:
    config, training = plan.config, plan.config.training
    how = config.tuning
    if config.tuning == "last_layers":
        how = f"the last {config.num_trained_layers} layers"
    if config.tuning == "lora":
        targets = config.lora.target_modules
        # A text is all-linear, or a pattern.
        targets = targets if isinstance(targets, str) else ", ".join(targets)
        kind = "DoRA" if config.lora.use_dora else "LoRA"
        how = f"{kind}, rank {config.lora.rank}, alpha {config.lora.alpha:g}, on {targets}"
        if config.lora.exclude_modules:
            how += f" without {', '.join(config.lora.exclude_modules)}"
        if config.lora.layers_to_transform is not None:
            how += f" of layers {', '.join(map(str, config.lora.layers_to_transform))}"
        how += "".join(f", rank of {item}" for item in config.lora.rank_pattern)
        how += "".join(f", alpha of {item}" for item in config.lora.alpha_pattern)
        how += {"none": "", "all": ", all biases", "lora_only": ", biases of these layers"}[
            config.lora.bias
        ]
        if config.lora.trainable_token_indices:
            how += f", {len(config.lora.trainable_token_indices)} rows of the token embedding"
        how += ", A frozen" if config.lora.freeze_a else ""
        how += ", in the tangent space" if config.lora.gauge == "tangent" else ""
        how += ", rsLoRA" if config.lora.use_rslora else ""
        how += f", dropout {config.lora.dropout:g}" if config.lora.dropout else ""
        if config.lora.modules_to_save:
            how += f", {', '.join(config.lora.modules_to_save)} in full"
        if config.lora.start_a == "principal":
            how += ", A from principal components of random texts"
    rows = [
        result.quality or ("Result on held-out records", "not known"),
        *result.quality_details,
        *_before_tuning(result),
        (plan.task.loss_name, _number(result.eval_loss, ".4f", " nats")),
        ("Privacy", in_words(plan, plan.num_steps)),
        *_lifetime(result),
        ("Checkpoint", _checkpoint(plan)),
        ("Tuning", how),
        *_features(config),
        ("Training records", f"{_training_records(plan, result)}, {plan.task.summary()}"),
        *_owners(plan),
        *(() if plan.owner_training is None else plan.owner_training.rows()),
        ("Sampling", describe_sampling(plan.recipe).brief),
        ("Expected batch size", f"{plan.noise.batch_size:g}"),
        ("Steps", str(plan.num_steps)),
        *_clip_norms(result),
        *_head_stage(plan),
        ("Optimizer", f"{_optimizer(training)}, {training.schedule}"),
        ("Longest text", f"{training.max_length} tokens; {plan.train.num_truncated} texts cut"),
    ]
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows)
    sections = [f"# {_title(result)}", f"| | |\n|---|---|\n{table}"]
    sections += _picture(directory.training_picture, "Loss and ε")
    sections += _warnings(result)
    if result.attack is not None:
        sections += ["## Membership inference", _attack_text(result)]
        sections += _picture(directory.roc_picture, "ROC")
    if result.audit is not None:
        verdict = result.audit["verdict"]
        sections += ["## Audit", f"Verdict: {verdict['conclusion']}. {verdict['sentence']}"]
        sections.append("audit.html has the bounds, the attacks and the pictures.")
    if result.samples:
        sections += ["## Answers to held-out prompts", _samples_table(result.samples)]
    if plan.prompts is not None and plan.prompts.num_without:
        sections.append(
            f"{plan.prompts.num_without} of {len(plan.evaluation)} held-out conversations begin "
            "with the assistant's last message: there is nothing to answer."
        )
    if result.privacy["private"]:
        sections.append("privacy.html says what is promised, in words and numbers.")
    for heading, key in (("Assumptions", "assumptions"), ("Not covered", "not_covered")):
        if result.privacy[key]:
            sections += [f"## {heading}", "\n".join(f"- {line}" for line in result.privacy[key])]
    return "\n\n".join(sections) + "\n"


def _before_tuning(result: FinetuneResult) -> list[tuple[str, str]]:
    if result.eval_accuracy_before is None:
        return []
    return [("Accuracy before tuning, at no ε", f"{result.eval_accuracy_before:.4f}")]


def _features(config: FinetuneConfig) -> list[tuple[str, str]]:
    rows = []
    if config.features.layers:
        layers = ", ".join(map(str, config.features.layers))
        rows.append(("Features", f"of the layers {layers}, centred, of norm 1"))
    if config.head.template is not None and not config.reads_language_head:
        rows.append(("Texts are put into", config.head.template.replace("\n", "\\n")))
    if config.head.label_words and not config.reads_language_head:
        rows.append(("Head starts from", "; ".join(config.head.label_words)))
    return rows


def _training_records(plan: Plan, result: FinetuneResult) -> str:
    left_out = f", {result.num_left_out} of them left out by coins" if result.num_left_out else ""
    return f"{len(plan.train)}{left_out}"


def _clip_norms(result: FinetuneResult) -> list[tuple[str, str]]:
    """Returns where a clip norm that adapts has moved: each was released."""
    norms = [row["clip_norm"] for row in result.metrics if "clip_norm" in row]
    if not norms:
        return []
    return [("Clip norm", f"{norms[0]:.4g} in the first step, {norms[-1]:.4g} in the last")]


def _head_stage(plan: Plan) -> list[tuple[str, str]]:
    if plan.first_step == 0:
        return []
    stage, _ = plan.stages
    batch, rate = stage.noise.batch_size, stage.config.training.learning_rate
    return [
        (
            "Head alone",
            f"in the first {stage.num_steps} steps, with batches of {batch:g} and learning rate "
            f"{rate:g}",
        )
    ]


def _owners(plan: Plan) -> list[tuple[str, str]]:
    if plan.owners is None:
        return []
    at_most = plan.config.privacy.records_per_owner
    batches = f"batches are of owners, with at most {at_most} records each"
    if not plan.samples_owners:
        batches = f"batches are of single records, of which an owner has at most {at_most}"
        batches += f"; {plan.num_left_out} records left out"
    return [("Owners", f"{len(plan.owners)}; {batches}")]


def _checkpoint(plan: Plan) -> str:
    revision = revision_of(plan.checkpoint)
    return plan.config.model if revision is None else f"{plan.config.model} at {revision}"


def _number(value: float | None, form: str, unit: str) -> str:
    return "not known" if value is None else f"{value:{form}}{unit}"


def _lifetime(result: FinetuneResult) -> list[tuple[str, str]]:
    total = result.privacy["dataset_total"]
    if total is None:
        return []
    text = (
        f"ε = {total['epsilon']:.4g} at δ = {total['delta']:.3g}, {total['num_runs']} in the ledger"
    )
    return [("All runs on the same records", text)]


def _optimizer(training: Training) -> str:
    name = {
        "adam": "Adam",
        "adamw": f"AdamW, weight decay {training.weight_decay:g}",
        "sgd": f"SGD, momentum {training.momentum:g}",
        "adam-bc": "DP-AdamBC",
    }[training.optimizer]
    rate, head = training.learning_rate, training.head_learning_rate
    rates = f"learning rate {rate:g}" + ("" if head is None else f" ({head:g} for the head)")
    return f"{name}, {rates}"


def _samples_table(samples: list[Sample]) -> str:
    rows = [(s.prompt, s.expected, s.written) for s in samples]
    lines = ["| prompt | in the data | written by the model |", "|---|---|---|"]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Any text inside a cell of a Markdown table."""
    return _line(text.replace("|", "\\|"))


def _line(text: str) -> str:
    """Any text on one line of Markdown, without HTML."""
    return " ".join(text.replace("<", "&lt;").split())


def _attack_text(result: FinetuneResult) -> str:
    return render_attack_section(result.attack, epsilon=result.epsilon, delta=result.delta)
