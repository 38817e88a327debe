"""How much of texts that people wrote stands in texts that a model wrote."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def bleu(written: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Returns BLEU of a corpus, from 0 to 100, case counts (Papineni et al. 2002), by sacrebleu.

    Args:
        written: a text for each prompt.
        references: of each prompt all the texts that people wrote; at least one.

    Raises:
        ModuleNotFoundError: sacrebleu is not installed: it is in the extra `bench`.
    """
    import sacrebleu

    most = max(len(each) for each in references)
    # sacrebleu wants streams of equal length. It leaves out None; "" would be a reference whose
    # length 0 counts.
    streams = [[each[i] if i < len(each) else None for each in references] for i in range(most)]
    return float(sacrebleu.corpus_bleu(list(written), streams).score)


def rouge_l(written: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Returns the mean F-measure of ROUGE-L, from 0 to 100 (Lin 2004), by rouge-score.

    Of several references the one that fits best counts. Words are lower-cased and not stemmed.

    Args:
        written: a text for each prompt.
        references: of each prompt all the texts that people wrote; at least one.

    Raises:
        ModuleNotFoundError: rouge-score is not installed: it is in the extra `bench`.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    pairs = zip(references, written, strict=True)
    best = [scorer.score_multi(list(each), text)["rougeL"].fmeasure for each, text in pairs]
    return 100 * statistics.fmean(best)
