"""Generation against transformers, against the full forward pass, and against probabilities."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from dpjax.models import (
    LoraConfig,
    LoraLinear,
    add_lora,
    generate,
    load_causal_lm,
)
from dpjax.models.text.next_token import sample_tokens
from tests.support.slow import mark_slow
from tests.support.tiny_checkpoints import (
    DECODERS,
    VOCABULARY,
    auto_class,
    random_model,
    raw_config,
)

# The submodule: the package has the function under this name.
module = sys.modules["dpjax.models.text.generate"]
NEW = 12


def ragged_prompts():
    """(4, 9) ids and mask, padded on the left, the shortest prompt a single token."""
    ids = np.random.default_rng(1).integers(3, VOCABULARY, (4, 9))
    mask = np.arange(9) >= np.array([0, 3, 7, 8])[:, None]
    return np.where(mask, ids, 0).astype(np.int32), mask


def run(model, prompts=None, **options):
    ids, mask = prompts or ragged_prompts()
    settings = {"max_new_tokens": NEW, "eos_token_ids": (), "pad_token_id": 0}
    return jax.device_get(generate(model, ids, mask, **settings | options))


def one_prompt(rows):
    return np.full((rows, 3), 7, np.int32), np.ones((rows, 3), bool)


@pytest.fixture(scope="module")
def gpt2():
    return random_model("gpt2", "causal_lm")


@pytest.fixture(scope="module")
def unending(gpt2):
    """What it writes where no token ends a row."""
    return run(gpt2)


@pytest.mark.parametrize(
    "family", mark_slow(DECODERS, lambda family: family not in ("gpt2", "gemma3_text"))
)
def test_greedy_decoding_equals_transformers(family, tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    torch.manual_seed(0)
    # A tied head of large weights repeats the last token.
    raw = raw_config(family, tie_word_embeddings=False)
    config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
    auto = getattr(transformers, auto_class(family, "causal_lm"))
    theirs = auto.from_config(config, attn_implementation="eager")
    theirs.eval().save_pretrained(tmp_path)
    theirs.generation_config.eos_token_id = None
    ids, mask = ragged_prompts()
    expected = theirs.generate(
        input_ids=torch.tensor(np.int64(ids)),
        attention_mask=torch.tensor(np.int64(mask)),
        do_sample=False,
        max_new_tokens=NEW,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = expected.sequences[:, ids.shape[1] :]
    log_probs = torch.stack(expected.logits, dim=1).log_softmax(-1)
    log_probs = log_probs.gather(2, tokens[..., None])[..., 0]
    ours = run(load_causal_lm(tmp_path))
    np.testing.assert_array_equal(ours.tokens, tokens)
    np.testing.assert_allclose(ours.log_probs, log_probs, atol=1e-4)
    assert len(np.unique(tokens)) > 8
    np.testing.assert_array_equal(ours.num_tokens, [NEW] * 4)


@pytest.mark.parametrize(
    ("family", "changes"),
    mark_slow(
        [
            ("gpt2", {"scan_layers": True}),
            ("gemma3_text", {"scan_layers": True}),
            ("smollm3", {"scan_layers": True, "rematerialise": True}),
            ("opt", {"dtype": "bfloat16", "rematerialise": True}),
            ("qwen2", {"dtype": "bfloat16", "scan_layers": True}),
        ],
        lambda family, changes: family not in ("gemma3_text", "opt"),
    ),
)
def test_every_token_is_what_the_full_forward_pass_would_choose(family, changes):
    model = random_model(family, "causal_lm", **changes)
    written = run(model)
    logits = full_logits(model, written.tokens)
    own = np.take_along_axis(logits, written.tokens[..., None], axis=-1)[..., 0]
    rounding = 0.2 if "dtype" in changes else 1e-4
    assert (logits.max(-1) - own).max() <= rounding
    expected = own - np.asarray(jax.nn.logsumexp(logits, axis=-1))
    np.testing.assert_allclose(written.log_probs, expected, atol=rounding)


def full_logits(model, tokens):
    """Logits (N, NEW, V) of each of the tokens after the prompts, from all before it."""
    ids, mask = ragged_prompts()
    whole = np.concatenate([ids, tokens], axis=1)
    everything = np.concatenate([mask, np.ones_like(tokens, bool)], axis=1)
    return np.asarray(jax.jit(model)(whole, everything))[:, ids.shape[1] - 1 : -1]


def test_a_cache_gives_what_a_model_without_one_gives_token_by_token():
    model = random_model("mistral", "causal_lm", scan_layers=True)
    tokens = run(model).tokens
    ids, mask = (np.pad(part, ((0, 0), (0, NEW))) for part in ragged_prompts())
    forward = jax.jit(model)
    for place in range(9, 9 + NEW):
        ids[:, place] = np.argmax(forward(ids, mask)[:, place - 1], axis=-1)
        mask[:, place] = True
    np.testing.assert_array_equal(ids[:, 9:], tokens)


def test_adapters_are_heeded(gpt2):
    model = random_model("gpt2", "causal_lm")
    config = LoraConfig(rank=2, alpha=2, target_modules="all-linear")
    add_lora(model, config, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    for _, layer in nnx.iter_graph(model):
        if isinstance(layer, LoraLinear):
            layer.lora_b[...] = np.float32(rng.normal(size=layer.lora_b.shape))
    tokens = run(model).tokens
    assert (tokens != run(gpt2).tokens).any()
    np.testing.assert_array_equal(tokens, full_logits(model, tokens).argmax(-1))


def test_a_row_ends_at_any_of_its_end_tokens(gpt2, unending):
    ends = (int(unending.tokens[0, 2]), int(unending.tokens[2, 5]))
    written = run(gpt2, eos_token_ids=ends, pad_token_id=60)
    for row, tokens in enumerate(unending.tokens):
        hits = np.flatnonzero(np.isin(tokens, ends))
        count = hits[0] + 1 if hits.size else NEW
        assert written.num_tokens[row] == count
        np.testing.assert_array_equal(written.tokens[row, :count], tokens[:count])
        assert (written.tokens[row, count:] == 60).all()
        np.testing.assert_allclose(
            written.log_probs[row, :count], unending.log_probs[row, :count], atol=1e-5
        )
        assert not written.log_probs[row, count:].any()
    assert len(set(written.num_tokens)) > 1


@pytest.fixture
def count_columns(monkeypatch):
    """Has generation note every column that it really computes."""
    seen = []
    choose = module._choose

    def noting(logits, column, *settings):
        jax.debug.callback(lambda number: seen.append(int(number)), column)
        return choose(logits, column, *settings)

    module._generate.clear_cache()
    monkeypatch.setattr(module, "_choose", noting)
    yield seen
    module._generate.clear_cache()


def test_nothing_is_computed_once_every_row_has_ended(gpt2, unending, count_columns):
    last = max(run(gpt2, eos_token_ids=set(unending.tokens[:, 3].tolist())).num_tokens)
    jax.effects_barrier()
    assert last <= 4
    assert sorted(count_columns) == list(range(last))


@pytest.mark.usefixtures("compilations_count")
def test_nothing_is_compiled_twice():
    model, other = (random_model("gpt2", "causal_lm", num_layers=1) for _ in range(2))
    other.transformer.norm.scale[...] *= 2
    ids, mask = ragged_prompts()
    options = {"max_new_tokens": 2, "top_k": 5}
    run(model, key=jax.random.key(0), temperature=1, top_p=0.9, eos_token_ids=(3,), **options)
    run(
        other,
        (ids[::-1], mask[::-1]),
        key=jax.random.key(1),
        temperature=0.5,
        top_p=np.float64(0.3),
        eos_token_ids=[9],
        pad_token_id=5,
        **options,
    )
    assert module._generate._cache_size() == 1


def test_one_key_gives_one_text(gpt2):
    texts = [run(gpt2, key=jax.random.key(seed), temperature=3.0).tokens for seed in (0, 0, 1)]
    np.testing.assert_array_equal(texts[0], texts[1])
    assert (texts[0] != texts[2]).mean() > 0.5


@pytest.mark.slow
def test_a_row_is_drawn_the_same_in_a_smaller_batch(gpt2):
    ids, mask = ragged_prompts()
    options = {"key": jax.random.key(0), "temperature": 3.0, "top_k": 20, "top_p": 0.9}
    whole = run(gpt2, **options).tokens
    half = run(gpt2, (ids[:2], mask[:2]), **options).tokens
    np.testing.assert_array_equal(half, whole[:2])
    alike = run(gpt2, one_prompt(2), **options).tokens
    assert (alike[0] != alike[1]).any()


def test_a_row_with_a_key_of_its_own_is_drawn_by_it_alone(gpt2):
    ids, mask = ragged_prompts()
    keys = jax.random.split(jax.random.key(0), 4)
    options = {"temperature": 3.0, "top_k": 20, "top_p": 0.9}
    whole = run(gpt2, key=keys, **options)
    order = np.array([3, 1])
    part = run(gpt2, (ids[order], mask[order]), key=keys[order], **options)
    np.testing.assert_array_equal(part.tokens, whole.tokens[order])
    same = run(gpt2, one_prompt(3), key=keys[np.array([0, 1, 0])], temperature=1.0).tokens
    np.testing.assert_array_equal(same[0], same[2])
    assert not np.array_equal(same[0], same[1])
    with pytest.raises(ValueError, match="one for each of the 4 prompts, got 2 keys"):
        run(gpt2, key=keys[:2], **options)


def test_the_most_probable_of_one_is_the_greedy_token(gpt2, unending):
    sampled = run(gpt2, key=jax.random.key(0), temperature=5.0, top_k=1)
    np.testing.assert_array_equal(sampled.tokens, unending.tokens)
    np.testing.assert_allclose(sampled.log_probs, unending.log_probs, atol=1e-5)
    for greedy in (0, 0.0, None):
        same = run(gpt2, key=jax.random.key(0), temperature=greedy, top_k=3, top_p=0.5)
        np.testing.assert_array_equal(same.tokens, unending.tokens)


def test_first_tokens_are_distributed_as_the_model_says(gpt2):
    temperature = 4.0
    prompts = one_prompt(4000)
    drawn = run(gpt2, prompts, max_new_tokens=1, key=jax.random.key(3), temperature=temperature)
    logits = np.float64(jax.jit(gpt2)(prompts[0][0], prompts[1][0])[-1])
    assert_distributed(drawn.tokens[:, 0], softmax(logits / temperature))
    np.testing.assert_allclose(
        drawn.log_probs[:, 0], np.log(softmax(logits))[drawn.tokens[:, 0]], atol=1e-4
    )


def test_columns_are_drawn_independently():
    model = random_model("gpt2", "causal_lm", num_layers=1)
    # Equal logits: every token is as probable as any, whatever came before.
    model.transformer.embed_tokens.embedding[...] *= 0
    drawn = run(
        model, one_prompt(1500), max_new_tokens=3, key=jax.random.key(0), temperature=1.0
    ).tokens
    uniform = np.full(VOCABULARY, 1 / VOCABULARY)
    assert_distributed(drawn[:, 2], uniform)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert_distributed((drawn[:, one] - drawn[:, other]) % VOCABULARY, uniform)


@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [(None, None), (3, None), (None, 0.7), (5, 0.8), (99, 0.4), (None, 1e-6), (2, 0.999)],
)
def test_only_what_may_be_drawn_is_drawn_in_proportion(top_k, top_p):
    logits = np.array([0.0, 2.0, -1.0, 1.5, 0.5, 1.0, -3.0, 0.2])
    temperature = 0.8
    probabilities = softmax(logits / temperature)
    falling = np.argsort(-probabilities)[:top_k]
    shares = np.cumsum(probabilities[falling]) / probabilities[falling].sum()
    if top_p is not None:
        falling = falling[: np.searchsorted(shares, top_p) + 1]
    expected = np.zeros(8)
    expected[falling] = probabilities[falling] / probabilities[falling].sum()
    drawn = sample_tokens(
        jnp.tile(jnp.float32(logits), (8000, 1)),
        jax.random.key(5),
        jnp.float32(temperature),
        top_k,
        None if top_p is None else jnp.float32(top_p),
    )
    assert drawn.dtype == jnp.int32
    assert set(np.unique(drawn)) == set(falling)
    assert_distributed(np.asarray(drawn), expected)


def test_generated_tokens_lie_in_the_nucleus(gpt2):
    temperature, top_p = 3.0, 0.6
    drawn = run(gpt2, key=jax.random.key(2), temperature=temperature, top_p=top_p).tokens
    probabilities = softmax(full_logits(gpt2, drawn) / temperature)
    own = np.take_along_axis(probabilities, drawn[..., None], axis=-1)
    more_probable = np.where(probabilities > own, probabilities, 0).sum(-1)
    assert (more_probable < top_p + 1e-4).all()
    assert (more_probable > 0).any()


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def assert_distributed(drawn, probabilities):
    """A chi-square test that a fixed key passes, and a wrong distribution does not."""
    counts = np.bincount(drawn, minlength=len(probabilities))
    expected = probabilities * len(drawn)
    common = expected >= 5
    rest = expected[~common].sum()
    observed = [*counts[common], counts[~common].sum()] if rest else counts[common]
    assert counts[expected == 0].sum() == 0
    if len(observed) > 1:
        wanted = [*expected[common], rest] if rest else expected[common]
        assert scipy.stats.chisquare(observed, wanted).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.5}, r"temperature must be a finite number of at least 0, got -0\.5"),
        ({"temperature": float("nan")}, "temperature must be a finite number"),
        ({"temperature": 1.0}, r"temperature 1\.0 needs a key"),
        ({"top_p": 0.0}, r"top_p must be above 0 and at most 1, got 0\.0"),
        ({"top_p": 1.5}, r"got 1\.5"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1, got 0"),
        ({"top_k": 2.5}, r"got 2\.5"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, got 0"),
        ({"max_new_tokens": 32}, "9 tokens and max_new_tokens=32 are more than the 40 positions"),
        ({"eos_token_ids": (2, 61)}, "eos_token_ids: the model knows the ids 0 to 60, got 61"),
        ({"pad_token_id": -1}, "pad_token_id: the model knows the ids 0 to 60, got -1"),
    ],
)
def test_impossible_settings_are_refused_before_compilation(gpt2, monkeypatch, options, message):
    monkeypatch.setattr(module, "_generate", None)
    with pytest.raises(ValueError, match=message):
        run(gpt2, **options)


def changed(index, value, part):
    prompts = [array.copy() for array in ragged_prompts()]
    prompts[part][index] = value
    return tuple(prompts)


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        (changed((2, 8), False, 1), ValueError, "row 2 of attention_mask is empty or has padding"),
        (changed((0, 4), False, 1), ValueError, "row 0 of attention_mask .* padded on the left"),
        (changed((1, 0), 61, 0), ValueError, "input_ids contain 61, the model knows the ids 0 to"),
        ((np.zeros((2, 0), int), np.zeros((2, 0), bool)), ValueError, "row 0 .* is empty"),
        ((np.zeros(3, int), np.ones(3, bool)), ValueError, r"shape \(N, T\), got \(3,\)"),
        ((np.zeros((1, 3), int), np.ones((1, 4), bool)), ValueError, r"\(1, 3\), got \(1, 4\)"),
        ((np.zeros((1, 3)), np.ones((1, 3), bool)), TypeError, "must be integers, got float64"),
        ((np.zeros((1, 3), int),) * 2, TypeError, r"must be bool, got int64; .*astype\(bool\)"),
    ],
)
def test_impossible_prompts_are_refused(gpt2, prompts, error, message):
    with pytest.raises(error, match=message):
        run(gpt2, prompts)


def test_the_last_learned_position_can_be_written(gpt2):
    assert run(gpt2, max_new_tokens=31).num_tokens.tolist() == [31] * 4


def test_a_classifier_writes_nothing(model):
    with pytest.raises(TypeError, match="a SequenceClassifier has no causal head"):
        run(model)
