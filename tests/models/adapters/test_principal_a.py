import jax
import numpy as np
import pytest
from flax import nnx

from dpjax.models import (
    LoraConfig,
    LoraLinear,
    add_lora,
    load_classifier,
    start_a_at_principal_directions,
)

pytestmark = pytest.mark.slow

WORDS = ("the", "of", "and", "red", "blue", "green", "walk", "run", "sit", "house", "tree", "sea")


class WordTokenizer:
    """One token per word, numbered from 4, between [CLS] and [SEP]."""

    pieces = ("[PAD]", "[CLS]", "[SEP]", "##s", *WORDS, "7", "a")

    def __len__(self):
        return len(self.pieces)

    def convert_ids_to_tokens(self, ids):
        return [self.pieces[i] for i in ids]

    def convert_tokens_to_string(self, tokens):
        return " ".join(tokens)

    def __call__(self, texts, truncation, max_length):
        assert truncation
        inner = [[self.pieces.index(w) for w in text.split()[: max_length - 2]] for text in texts]
        return {"input_ids": [[1, *ids, 2] for ids in inner]}


def adapters(model):
    return [node for _, node in nnx.iter_graph(model) if isinstance(node, LoraLinear)]


def started(folder, rank=4, seed=5, pooling="mean", **options):
    model = load_classifier(folder, label_names=("a", "b"), key=jax.random.key(0), pooling=pooling)
    add_lora(
        model,
        LoraConfig(rank=rank, alpha=rank, target_modules="all-linear", **options),
        key=jax.random.key(1),
    )
    start_a_at_principal_directions(model, WordTokenizer(), key=jax.random.key(seed))
    return model


def inputs_of(model, layer, texts):
    """Means over tokens `(texts, in)` of what one adapted layer is called with."""
    seen = []
    original = LoraLinear.__call__

    def noting(self, x):
        if self is layer:
            seen.append(np.asarray(x.mean(-2)))
        return original(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoraLinear, "__call__", noting)
        model.pool(texts, np.ones(texts.shape, bool))
    return seen[0]


def fresh_texts(count=400, length=12):
    words = np.random.default_rng(9).integers(4, 16, (count, length - 2))
    ends = np.ones((count, 1), int)
    return np.concatenate([ends, words, 2 * ends], axis=1).astype(np.int32)


@pytest.mark.parametrize("freeze_a", [False, True])
def test_columns_are_orthonormal_and_the_model_is_unchanged(folder, batch, freeze_a):
    model = started(folder, freeze_a=freeze_a)
    plain = load_classifier(folder, label_names=("a", "b"), key=jax.random.key(0), pooling="mean")
    ids, mask = np.minimum(batch[0], 15), batch[1]
    np.testing.assert_array_equal(model(ids, mask), plain(ids, mask))
    for layer in adapters(model):
        a = np.asarray(layer.lora_a[...])
        assert a.dtype == np.float32
        np.testing.assert_allclose(a.T @ a, np.eye(4), atol=1e-5)


def test_they_see_how_texts_differ_and_not_their_mean(folder):
    model = started(folder)
    random = load_classifier(folder, label_names=("a", "b"), key=jax.random.key(0), pooling="mean")
    add_lora(
        random, LoraConfig(rank=4, alpha=4, target_modules="all-linear"), key=jax.random.key(1)
    )
    texts = fresh_texts()
    for ours, other in zip(adapters(model), adapters(random), strict=True):
        means = inputs_of(model, ours, texts)
        centre = means.mean(0)

        def seen(a, rows=means - centre):
            unit = np.asarray(a[...]) / np.linalg.norm(a[...], axis=0)
            return np.sum((rows @ unit) ** 2)

        assert seen(ours.lora_a) > 1.5 * seen(other.lora_a)
        assert np.linalg.norm(centre @ ours.lora_a[...]) < 0.5 * np.linalg.norm(centre)


def test_the_first_token_is_what_counts_where_nothing_else_is_read(folder):
    model = started(folder, pooling="first")
    *_, last = model.transformer.layers
    assert inputs_of(model, last.mlp.down_proj, fresh_texts()).shape == (400, 40)
    assert np.asarray(last.mlp.down_proj.lora_a[...]).any()


def test_one_key_gives_one_start(folder):
    def start(seed):
        return np.asarray(adapters(started(folder, seed=seed))[0].lora_a[...])

    np.testing.assert_array_equal(start(5), start(5))
    assert not np.allclose(start(5), start(6))


def test_refusals(folder, model):
    with pytest.raises(ValueError, match=r"no adapters.*add_lora"):
        start_a_at_principal_directions(model, WordTokenizer(), key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"rank 24.*24 numbers differ.*in 23 directions"):
        started(folder, rank=24)
    wordless = WordTokenizer()
    wordless.pieces = ("[PAD]", "[CLS]", "[SEP]", "7")
    add_lora(model, LoraConfig(rank=2, alpha=2, target_modules=("query",)), key=jax.random.key(1))
    with pytest.raises(ValueError, match="4 tokens contain no word"):
        start_a_at_principal_directions(model, wordless, key=jax.random.key(0))
