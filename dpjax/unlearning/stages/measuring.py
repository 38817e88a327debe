"""What is measured of which records, for one model after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dpjax.audit import mean_log_probs
from dpjax.data import Completions, LanguageDataset, Texts
from dpjax.models import CausalLM, SplitModel, end_token_ids, load_tokenizer
from dpjax.unlearning.losses.objective import make_tuning_loss
from dpjax.unlearning.measures.model import Measured, MeasuredRecords, measure_model
from dpjax.unlearning.measures.truth_ratio import Questions, QuestionTexts
from dpjax.unlearning.setup.prepared import Unlearning, with_targets
from dpjax.unlearning.setup.tuned_run import TunedRun
from dpjax.unlearning.steps.training import Steps, descend

# Apart from the purposes of the orders of records.
_MEASURED = 2


def measured_records(unlearning: Unlearning) -> MeasuredRecords:
    """Draws the records that all models are measured on; the same seed draws the same.

    Raises:
        ValueError: a question is longer than the run's training.max_length.
    """
    config, run = unlearning.config, unlearning.run
    draws = np.random.default_rng([config.seed, _MEASURED])
    parts: dict[str, LanguageDataset] = {"forget": unlearning.forget}
    for part, data in (
        ("retain", unlearning.retain),
        ("held_out", with_targets(run.held_out)),
    ):
        rows = draws.permutation(len(data))[: config.measured_records]
        parts[part] = data.take(np.sort(rows))
    tokenizer = load_tokenizer(run.plan.checkpoint, needs_padding=False)
    texts = unlearning.questions
    return MeasuredRecords(
        parts,
        tokenizer,
        end_token_ids(run.plan.checkpoint, tokenizer),
        has_prompts=not isinstance(run.records, Texts),
        questions=None if texts is None else _encode(texts, run),
    )


def measure_once(
    unlearning: Unlearning,
    name: str,
    load: Callable[[], SplitModel],
    records: MeasuredRecords,
) -> Measured:
    """Measures a model, or returns what was measured of it before an interruption.

    Args:
        unlearning: what was asked for.
        name: of the model, for the file.
        load: returns the model; called only if it is to be measured.
        records: what is measured.
    """
    stored = unlearning.folder.read_measured(name)
    if stored is not None:
        return Measured.from_stored(stored)
    measured = _measure(unlearning, load(), records)
    unlearning.folder.write_measured(name, measured.to_stored())
    return measured


def _measure(unlearning: Unlearning, model: SplitModel, records: MeasuredRecords) -> Measured:
    config, forget = unlearning.config, unlearning.forget
    relearnt, _ = descend(
        model,
        make_tuning_loss(model.graphdef),
        forget,
        forget,
        Steps(config.relearn_steps, config.batch_size, config.learning_rate, config.seed),
    )
    loss = -float(mean_log_probs(_merged(relearnt), forget).mean())
    return measure_model(_merged(model), records, relearnt_loss=loss)


def _merged(model: SplitModel) -> CausalLM:
    merged = model.merge()
    assert isinstance(merged, CausalLM)
    return merged


def _encode(texts: QuestionTexts, run: TunedRun) -> Questions:
    """The answers as the run encodes records; of each wrong one its question."""
    tokenizer = load_tokenizer(run.plan.checkpoint, needs_padding=False)
    question_of = np.repeat(np.arange(len(texts.prompts)), [len(each) for each in texts.perturbed])
    wrong = Completions(
        [texts.prompts[number] for number in question_of],
        [answer for answers in texts.perturbed for answer in answers],
    )
    right = Completions(list(texts.prompts), list(texts.paraphrases))
    encoded = []
    for records in (right, wrong):
        arrays = run.plan.task.encode(records, tokenizer, run.config.training.max_length)
        assert isinstance(arrays, LanguageDataset)
        if arrays.truncated.any() or arrays.without_targets.any():
            raise ValueError(
                f"{arrays.truncated.sum()} answers for the truth ratio are longer, with their "
                f"prompt, than training.max_length={run.config.training.max_length} of the run: "
                "shorten them"
            )
        encoded.append(arrays)
    return Questions(encoded[0], encoded[1], question_of)
