"""Encoded records of random tokens for tiny language models."""

import numpy as np

from dpjax.data import LanguageDataset


def random_records(lengths, *, first_target=1, vocabulary=61, columns=None, seed=0):
    """Records of the given lengths, padded on the right; targets from `first_target` on."""
    lengths = np.asarray(lengths)
    shape = (len(lengths), columns or lengths.max())
    mask = np.arange(shape[1]) < lengths[:, None]
    ids = np.random.default_rng(seed).integers(3, vocabulary, shape)
    return LanguageDataset(
        input_ids=np.where(mask, ids, 0).astype(np.int32),
        attention_mask=mask,
        truncated=np.zeros(len(lengths), bool),
        loss_mask=mask & (np.arange(shape[1]) >= first_target),
    )
