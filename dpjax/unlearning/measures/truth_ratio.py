"""The truth ratio: whether a model finds wrong answers as probable as the right one, reworded."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from dpjax.audit import mean_log_probs
from dpjax.data import LanguageDataset, open_lines
from dpjax.models import CausalLM

_COLUMNS = ("prompt", "paraphrase", "perturbed")
_LARGEST = 700.0


@dataclasses.dataclass(frozen=True)
class QuestionTexts:
    """Q questions about records to forget, as they stand in a file.

    Attributes:
        prompts: of the questions.
        paraphrases: of each the right answer in other words.
        perturbed: of each at least one wrong answer.
    """

    prompts: list[str]
    paraphrases: list[str]
    perturbed: list[list[str]]


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
    """The same as arrays.

    Attributes:
        paraphrases: Q records.
        perturbed: the wrong answers of all questions, one after the other.
        question_of: of each wrong answer the number of its question.
    """

    paraphrases: LanguageDataset
    perturbed: LanguageDataset
    question_of: NDArray[np.int64]


def read_questions(path: str | Path, prompts: set[str]) -> QuestionTexts:
    """Reads a file of JSON lines with the columns prompt, paraphrase and perturbed.

    Args:
        path: of the file.
        prompts: those of the records to forget.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8, holds no question, a column is missing or of another kind, or a
            prompt is not that of a record to forget; with the line.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}: truth_ratio must name one of questions")
    found = QuestionTexts([], [], [])
    with open_lines(file, newline="\n") as read:
        for number, line in enumerate(read, start=1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            prompt, paraphrase, perturbed = _columns_of(line, where)
            if prompt not in prompts:
                raise ValueError(
                    f"{where}: its prompt is not that of a record to forget, word for word. The "
                    "truth ratio asks for these alone"
                )
            found.prompts.append(prompt)
            found.paraphrases.append(paraphrase)
            found.perturbed.append(perturbed)
    if not found.prompts:
        raise ValueError(f"{file} holds no question: leave truth_ratio out, or name another file")
    return found


def truth_ratio(paraphrase: float, perturbed: ArrayLike) -> float:
    """Returns log R of one question, with R the truth ratio.

    Maini et al. 2024 (arXiv:2401.06121), equation 1:

        R = (1 / |Â|) Σ_{â in Â} P(â | q)^(1 / |â|)  /  P(ã | q)^(1 / |ã|),

    with ã the paraphrased answer, Â the perturbed ones, and |a| the tokens of an answer. The code
    that came with the paper takes the geometric mean over Â, and 1 / R.

    Args:
        paraphrase: mean log-probability of the tokens of ã, in nats.
        perturbed: `(n,)`, of each wrong answer.

    Example:
        >>> halves = np.log([0.2, 0.4])  # their mean is 0.3
        >>> round(math.exp(truth_ratio(math.log(0.5), halves)), 4)
        0.6
    """
    wrong = np.asarray(perturbed, np.float64)
    return float(special.logsumexp(wrong) - math.log(len(wrong)) - paraphrase)


def log_truth_ratios(model: CausalLM, questions: Questions) -> NDArray[np.float64]:
    """Returns log R of each question, `(Q,)`.

    Args:
        model: a language model.
        questions: about the forget set.
    """
    right = mean_log_probs(model, questions.paraphrases)
    wrong = mean_log_probs(model, questions.perturbed)
    return np.array(
        [
            truth_ratio(float(paraphrase), wrong[questions.question_of == number])
            for number, paraphrase in enumerate(right)
        ]
    )


def median_ratio(log_ratios: NDArray[np.float64]) -> float:
    """Returns the median of R; the mean is that of the largest alone."""
    return float(np.median(np.exp(np.minimum(log_ratios, _LARGEST))))


def forget_quality(
    log_ratios: NDArray[np.float64], retrained: NDArray[np.float64]
) -> dict[str, float]:
    """Compares the truth ratios of a model with those of the retrained one.

    Forget quality of Maini et al. 2024: the p-value of the two-sample test of Kolmogorov and
    Smirnov, which is the same for R, log R and 1 / R. A small one says that the model differs; a
    large one may come from few questions.

    Args:
        log_ratios: `(Q,)`.
        retrained: `(Q,)`, of the retrained model.

    Returns:
        `p_value` and `statistic`, the largest distance of both distribution functions.

    Example:
        >>> same = np.arange(5.0)
        >>> forget_quality(same, same)
        {'p_value': 1.0, 'statistic': 0.0}
    """
    found = stats.ks_2samp(log_ratios, retrained)
    return {"p_value": float(found.pvalue), "statistic": float(found.statistic)}


def _columns_of(line: str, where: str) -> tuple[str, str, list[str]]:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error})") from error
    if not isinstance(row, dict) or not set(_COLUMNS) <= set(row):
        found = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{where} must have {', '.join(_COLUMNS)}, got {found}")
    prompt, paraphrase, perturbed = (row[name] for name in _COLUMNS)
    texts = [prompt, paraphrase, *(perturbed if isinstance(perturbed, list) else [None])]
    if len(texts) < 3 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f"{where}: prompt and paraphrase must be texts, and perturbed a list of at least one "
            "text, none of them blank"
        )
    return prompt, paraphrase, perturbed
