"""Models of transformers and peft beside those of dpjax, on one tiny checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.models import (
    Loading,
    Trainable,
    load_causal_lm,
    load_classifier,
    load_masked_lm,
    load_token_classifier,
    split_trainable,
)
from tests.support.tiny_checkpoints import LABELS, auto_class, ragged_batch, raw_config

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

TASK_TYPES = {
    "causal_lm": "CAUSAL_LM",
    "masked_lm": None,
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
}


def original(family, task, folder, **changes):
    """A random model made by transformers, written to `folder`."""
    import transformers

    raw = raw_config(family, num_labels=len(LABELS), **changes)
    config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
    torch.manual_seed(0)
    auto = getattr(transformers, auto_class(family, task))
    made = auto.from_config(config, attn_implementation="eager").eval()
    made.save_pretrained(folder)
    return made


def load(folder, task, **loading):
    loading = Loading(**loading)
    if task == "causal_lm":
        return load_causal_lm(folder, loading=loading)
    if task == "masked_lm":
        return load_masked_lm(folder, loading=loading)
    make = load_classifier if task == "sequence_classification" else load_token_classifier
    return make(folder, label_names=LABELS, key=jax.random.key(0), loading=loading)


def logits_of(made):
    """Of the rows without padding on the left, whose positions all families count alike."""
    ids, mask = (np.asarray(part)[:2] for part in ragged_batch())
    ids = np.where(mask, ids, made.config.get_text_config().pad_token_id)
    with torch.no_grad():
        outputs = made(
            input_ids=torch.tensor(ids, dtype=torch.long),
            attention_mask=torch.tensor(mask, dtype=torch.long),
        )
    logits = outputs.logits.numpy()
    return logits if logits.ndim == 2 else logits[mask]


def ours(model):
    ids, mask = (np.asarray(part)[:2] for part in ragged_batch())
    logits = np.asarray(model(jnp.asarray(ids), jnp.asarray(mask)))
    return logits if logits.ndim == 2 else logits[mask]


def assert_equal(actual, expected, tolerance=1e-5):
    """Up to rounding, which goes by the largest logit: small ones are sums of large numbers."""
    atol = tolerance * max(1.0, float(np.max(np.abs(expected))))
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=tolerance)


def moved(model):
    """The same model with other values of all that is trained."""
    split = split_trainable(model, Trainable.lora())

    def move(path, leaf):
        key = jax.random.key(len(jax.tree_util.keystr(path)))
        return leaf + 0.1 * jax.random.normal(key, leaf.shape)

    trainable = jax.tree_util.tree_map_with_path(move, split.trainable)
    return split.replace(trainable=trainable).merge()


def shake(adapted):
    """Give what peft would train other values."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
