"""Encoded pairs of answers of random tokens, and tiny models with adapters that compare them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.data import PreferenceDataset
from dpjax.models import LoraConfig, Trainable, add_lora, split_trainable
from tests.support.tiny_checkpoints import VOCABULARY, random_model


def random_pairs(num=5, length=11, seed=0):
    """Pairs with prompts of two tokens and answers of different lengths, padded on the right."""
    rng = np.random.default_rng(seed)
    prompts = rng.integers(3, VOCABULARY, (num, 2))
    sides = []
    for _ in range(2):
        lengths = rng.integers(4, length + 1, num)
        mask = np.arange(length) < lengths[:, None]
        ids = rng.integers(3, VOCABULARY, (num, length))
        ids[:, :2] = prompts
        ids = np.where(mask, ids, 0).astype(np.int32)
        sides.append((ids, mask, mask & (np.arange(length) >= 2)))
    (ids, mask, counts), rejected = sides
    return PreferenceDataset(
        ids,
        mask,
        truncated=np.zeros(num, bool),
        loss_mask=counts,
        rejected_ids=rejected[0],
        rejected_mask=rejected[1],
        rejected_loss_mask=rejected[2],
    )


@functools.cache
def adapted(family="gpt2", *, scan_layers=False, **lora):
    """A random decoder whose adapters have left their start, split by what is trained."""
    model = random_model(family, "causal_lm", scan_layers=scan_layers)
    add_lora(model, LoraConfig(**{"rank": 2} | lora), key=jax.random.key(3))
    split = split_trainable(model, Trainable.lora())
    rng = np.random.default_rng(4)

    def moved(leaf):
        return jnp.asarray(np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape), jnp.float32)

    return split.replace(trainable=jax.tree.map(moved, split.trainable))


def padded(pairs, columns):
    """The same pairs with more columns, full of nonsense."""
    changes = {}
    for name in ("input_ids", "rejected_ids"):
        changes[name] = np.pad(getattr(pairs, name), ((0, 0), (0, columns)), constant_values=7)
    for name in ("attention_mask", "loss_mask", "rejected_mask", "rejected_loss_mask"):
        changes[name] = np.pad(getattr(pairs, name), ((0, 0), (0, columns)))
    return PreferenceDataset(truncated=pairs.truncated, **changes)


def naive_log_prob(model, ids, mask, counts):
    """Of the counted tokens of one text, by the softmax of all logits."""
    log_probs = jax.nn.log_softmax(model(ids, mask))
    picked = log_probs[np.arange(len(ids) - 1), ids[1:]]
    return jnp.sum(picked * counts[1:])
