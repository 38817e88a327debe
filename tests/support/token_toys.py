"""Six tokens of a vocabulary of four, under a tuned model and its base, and made-up statistics."""

import numpy as np

from dpjax.audit import TokenStatistics, statistics_from_logits

TUNED_LOGITS = [
    [2.65, 0.6, 1.47, 3.36],
    [2.8, -1.47, 1.43, -0.23],
    [-0.15, 0.62, 0.22, 2.18],
    [1.14, 0.18, 0.67, 0.5],
    [2.24, -0.31, 0.47, -1.28],
    [-3.83, 0.98, 1.3, -1.11],
]
BASE_LOGITS = [
    [3.4, -2.18, 0.07, -0.28],
    [2.3, 2.2, 0.23, 0.57],
    [-1.33, -2.97, -0.52, 0.23],
    [1.85, 1.8, -0.58, -0.45],
    [-1.57, -2.13, -2.56, 2.93],
    [-0.76, -0.66, -1.88, 1.17],
]
TOKENS = np.array([[0, 3, 1, 2, 0, 1]])


def toy(logits=TUNED_LOGITS, padding=0):
    """Statistics of the one toy record; columns of nonsense stand around its tokens."""
    rows = np.pad(np.array([logits]), [(0, 0), (padding, padding), (0, 0)], constant_values=7.0)
    is_target = np.zeros(rows.shape[:2], bool)
    is_target[:, padding : padding + 6] = True
    tokens = np.pad(TOKENS, [(0, 0), (padding, padding)])
    return statistics_from_logits(rows, tokens, is_target)


def made_up(log_probs, is_argmax=None, is_target=None, vocab_mean=-1.0, vocab_variance=1.0):
    """Statistics with the given log-probabilities; the other arrays are filled in."""
    log_probs = np.atleast_2d(np.asarray(log_probs, np.float64))
    fill = np.zeros(log_probs.shape)
    return TokenStatistics(
        log_probs=log_probs,
        vocab_mean=fill + vocab_mean,
        vocab_variance=fill + vocab_variance,
        is_argmax=fill > 0 if is_argmax is None else np.atleast_2d(is_argmax).astype(bool),
        is_target=fill == 0 if is_target is None else np.atleast_2d(is_target).astype(bool),
    )
