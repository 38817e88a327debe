"""The loss of pairs beside transformers and peft, whose reference is the model without adapters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.finetuning.tasks.preference import PreferenceTuning
from dpjax.models import LoraConfig, Trainable, add_lora, save_adapter, split_trainable
from tests.support.pairs import random_pairs
from tests.support.peft_models import load, moved, original, peft, torch
from tests.support.peft_warnings import IGNORE_OLD_NAME

pytestmark = [
    pytest.mark.slow,
    IGNORE_OLD_NAME,
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
]


def log_prob(model, ids, counts):
    """Of the counted tokens of a text without padding, in torch."""
    ids = torch.tensor(ids, dtype=torch.long)
    logits = model(input_ids=ids[None]).logits[0, :-1].double()
    picked = torch.log_softmax(logits, dim=-1).gather(1, ids[1:, None])[:, 0]
    return (picked * torch.tensor(counts[1:])).sum()


def torch_loss(model, pairs, row, beta):
    ratios = []
    for ids, mask, counts in (
        (pairs.input_ids, pairs.attention_mask, pairs.loss_mask),
        (pairs.rejected_ids, pairs.rejected_mask, pairs.rejected_loss_mask),
    ):
        text = ids[row][mask[row]], counts[row][mask[row]]
        tuned = log_prob(model, *text)
        with torch.no_grad(), model.disable_adapter():
            reference = log_prob(model, *text)
        ratios.append(tuned - reference)
    return -torch.nn.functional.logsigmoid(beta * (ratios[0] - ratios[1]))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_loss_and_gradient_are_those_of_torch(family, tmp_path):
    base = original(family, "causal_lm", tmp_path / "base")
    model = load(tmp_path / "base", "causal_lm")
    add_lora(model, LoraConfig(rank=3, alpha=5), key=jax.random.key(1))
    model = moved(model)
    save_adapter(model, tmp_path / "adapter", base=str(tmp_path / "base"))
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True).eval()
    pairs, task = random_pairs(3), PreferenceTuning(vocab_chunk=None, beta=0.3)
    split = split_trainable(model, Trainable.lora())
    loss = jax.jit(jax.value_and_grad(task.loss_fn(split.graphdef)))
    for row in range(3):
        record = jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf[row]), task.batch(pairs))
        value, gradient = loss(split.trainable, record, split.frozen)
        adapted.zero_grad()
        expected = torch_loss(adapted, pairs, row, 0.3)
        expected.backward()
        assert value == pytest.approx(expected.item(), rel=1e-5)
        norms = [
            float(sum((leaf**2).sum() for leaf in leaves)) ** 0.5
            for leaves in (
                jax.tree.leaves(gradient),
                [p.grad for p in adapted.parameters() if p.requires_grad],
            )
        ]
        np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)
