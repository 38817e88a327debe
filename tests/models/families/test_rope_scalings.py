"""RoPE scaled by yarn, dynamic and longrope, as transformers computes it for one text alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dpjax.models import CausalLM, generate, load_causal_lm, parse_config
from dpjax.models.net.rope import rotation
from dpjax.privatize import clipped_grad
from tests.support.tiny_checkpoints import ragged_batch, random_model, raw_config, run

_ORIGINAL = {"original_max_position_embeddings": 8}
_DIVISORS = {"short_factor": [1.0, 1.1, 1.3, 1.5], "long_factor": [1.0, 2.0, 3.0, 4.0]}
YARN = {"rope_type": "yarn", "factor": 4.0, **_ORIGINAL}
LONGROPE = {"rope_type": "longrope", **_DIVISORS, **_ORIGINAL}
DYNAMIC = {"rope_type": "dynamic", "factor": 3.0}
# Texts of up to 8 tokens are short ones for all of them.
SHORT = {"max_position_embeddings": 8}
SCALINGS = [
    YARN,
    YARN | {"beta_fast": 4.0, "beta_slow": 0.5, "truncate": False},
    YARN | {"mscale": 0.7, "mscale_all_dim": 0.4},
    YARN | {"attention_factor": 1.7},
    YARN | dict.fromkeys(("beta_fast", "beta_slow", "mscale", "attention_factor")),
    # The range in which wavelengths are interpolated is a point.
    YARN | {"beta_fast": 1.0, "original_max_position_embeddings": 6},
    LONGROPE,
    LONGROPE | {"factor": 5.0},
    LONGROPE | {"attention_factor": 0.8},
    DYNAMIC,
]


def llama(scaling, **changes):
    return raw_config("llama", rope_scaling=scaling, **changes)


@pytest.mark.parametrize("num_tokens", [3, 8, 9, 14])
@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_rotations_equal_those_of_transformers(scaling, num_tokens):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    raw = llama(dict(scaling), **SHORT)
    config = transformers.AutoConfig.for_model(**raw)
    positions = np.arange(num_tokens)[None]
    expected = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.tensor(positions))
    found = rotation(parse_config(llama(dict(scaling), **SHORT)).rope, jnp.asarray(positions))
    for part, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, theirs[..., :4].numpy(), atol=3e-6)


@pytest.mark.parametrize("scaling", [LONGROPE, DYNAMIC], ids=["longrope", "dynamic"])
def test_a_text_goes_by_its_own_length(scaling):
    """Neither padding nor the other texts of its batch count: its loss depends on it alone."""
    model = CausalLM(parse_config(llama(dict(scaling), **SHORT)), rngs=nnx.Rngs(0))
    ids, mask = ragged_batch()
    together = run(model, ids, mask)
    for row, own in enumerate(np.asarray(mask)):
        alone = run(model, ids[row, own][None], jnp.ones((1, own.sum()), bool))[0]
        np.testing.assert_allclose(together[row, own], alone, atol=2e-5)
    # One token has nothing to be rotated against; the first 7 of 9 would go as a short text.
    short = run(model, ids[1, :7][None], jnp.ones((1, 7), bool))[0]
    assert np.abs(together[1, :7] - short).max() > 1e-3


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"rope_scaling": DYNAMIC, **SHORT}),
        pytest.param("llama", {"rope_scaling": LONGROPE, **SHORT}, marks=pytest.mark.slow),
        (
            "phi3",
            {
                "rope_scaling": {"rope_type": "longrope", **_DIVISORS},
                "original_max_position_embeddings": 10,
            },
        ),
    ],
)
def test_logits_equal_those_of_transformers(family, changes, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    raw = raw_config(family, **changes)
    config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_causal_lm(tmp_path)
    ids, mask = ragged_batch()
    found = run(model, ids, mask)
    for row in (0, 1, 2):
        own = np.asarray(mask[row])
        # Of a model that has not seen a longer text: it would remember.
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
        with torch.no_grad():
            expected = theirs(torch.tensor(np.asarray(ids[row, own])[None])).logits[0].numpy()
        np.testing.assert_allclose(found[row, own], expected, atol=1e-5, rtol=1e-5)


def test_clipped_gradients_equal_a_loop():
    config = parse_config(llama(dict(DYNAMIC), **SHORT, num_hidden_layers=1))
    graphdef, state = nnx.split(CausalLM(config, rngs=nnx.Rngs(0)))
    parameters = nnx.to_pure_dict(state)
    batch = tuple(part[:3] for part in ragged_batch())

    def loss(parameters, example):
        ids, mask = example
        logits = nnx.merge(graphdef, parameters)(ids, mask)
        return jnp.sum(jnp.where(mask[:, None], jnp.sin(logits), 0.0))

    found = jax.jit(clipped_grad(loss, clip_norm=0.5, strategy="two_backwards"))(parameters, batch)
    one = jax.jit(jax.grad(loss))
    total = jax.tree.map(jnp.zeros_like, parameters)
    for example in zip(*batch, strict=True):
        gradient = one(parameters, example)
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))
        factor = min(1.0, 0.5 / float(jnp.sqrt(squares)))
        total = jax.tree.map(lambda t, g, c=factor: t + c * g, total, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.grads, total)


def test_longer_texts_are_not_written():
    model = random_model(
        "llama", "causal_lm", rope=parse_config(llama(dict(DYNAMIC), **SHORT)).rope
    )
    ids, mask = jnp.full((1, 3), 7), jnp.ones((1, 3), bool)
    ends = {"eos_token_ids": (), "pad_token_id": 0}
    written = generate(model, ids, mask, max_new_tokens=5, **ends)
    assert written.tokens.shape == (1, 5)
    with pytest.raises(ValueError, match="max_new_tokens=6 are more than 8, from where on"):
        generate(model, ids, mask, max_new_tokens=6, **ends)
    with pytest.raises(ValueError, match="a cache of 9 tokens is longer than the 8 up to which"):
        model.transformer.step(ids, jnp.ones((1, 9), bool), ids, 0, None)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        (LONGROPE | {"long_factor": [1.0]}, "long_factor .* must be a list of 4 positive numbers"),
        (LONGROPE | {"short_factor": [1, 1, 0, 1]}, "short_factor .* got .1, 1, 0, 1"),
        (YARN | {"beta_slow": -1.0}, "beta_slow .* must be a positive number, got -1.0"),
        (DYNAMIC | {"factor": "2"}, "factor .* must be a positive number, got '2'"),
    ],
)
def test_what_cannot_be_computed_is_refused(scaling, message):
    with pytest.raises(ValueError, match=message):
        parse_config(llama(scaling))


@pytest.mark.parametrize("family", ["gemma3_text", "olmo3"])
@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"rope_type": "linear", "factor": 8.0, "rope_theta": 123.0}, "factor, rope_theta, rope_t"),
        ({"full_attention": YARN, "sliding_attention": {}, "truncate": False}, "truncate"),
    ],
)
def test_parameters_beside_those_of_types_of_layers_are_refused(family, parameters, named):
    raw = raw_config(family, rope_scaling=None, rope_parameters=parameters)
    with pytest.raises(ValueError, match=f"rope_parameters has {named}.* beside full_attention"):
        parse_config(raw)
