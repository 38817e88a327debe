"""ChaCha20 as a generator of JAX: the cipher of RFC 8439, whose streams never meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpjax import RunKey
from dpjax.privatize import gaussian_noise
from dpjax.privatize.randomness import chacha20

KEY = np.arange(32, dtype=np.uint8).view("<u4").astype(np.uint32)
OTHER = RunKey.from_seed(7, generator="chacha20")
# RFC 8439: key, nonce, counter and key stream of section 2.3.2 and of appendix A.1, 1 to 3 and 5.
VECTORS = [
    (
        KEY,
        "000000090000004a00000000",
        1,
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e",
    ),
    (
        np.zeros(8, np.uint32),
        "000000000000000000000000",
        0,
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    ),
    (
        np.zeros(8, np.uint32),
        "000000000000000000000000",
        1,
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
    ),
]


def words_of(text):
    return np.frombuffer(bytes.fromhex(text), "<u4").astype(np.uint32)


def typed(words):
    return jax.random.wrap_key_data(jnp.asarray(words), impl=chacha20.implementation())


def stream(key, count, nonce=(0, 0, 0)):
    """The cipher's key stream, block after block."""
    of_blocks = [chacha20.blocks(key, jnp.uint32(block), nonce) for block in range(count)]
    return np.concatenate(of_blocks)


@pytest.mark.parametrize("vector", VECTORS)
def test_it_is_the_block_function_of_the_standard(vector):
    key, nonce, counter, expected = vector
    words = chacha20.blocks(jnp.asarray(key), jnp.uint32(counter), words_of(nonce))
    np.testing.assert_array_equal(words, words_of(expected))


def bits(key, shape):
    return np.asarray(jax.jit(lambda key: jax.random.bits(key, shape, jnp.uint32))(key))


def test_bits_are_the_key_stream_in_its_order():
    expected = stream(jnp.asarray(KEY), 40)
    np.testing.assert_array_equal(bits(typed(KEY), (37,)), expected[:37])
    np.testing.assert_array_equal(bits(typed(KEY), (5, 6)).ravel(), expected[:30])
    np.testing.assert_array_equal(bits(typed(KEY), (4, 2, 32)).ravel(), expected[:256])
    # A long row has blocks of its own.
    rows = expected[: 2 * 17 * 16].reshape(2, -1)
    np.testing.assert_array_equal(bits(typed(KEY), (2, 260)), rows[:, :260])
    assert bits(typed(KEY), ()) == expected[0] and bits(typed(KEY), (0, 3)).shape == (0, 3)


def test_no_block_is_used_twice():
    """Bits, split keys and folded-in keys, two levels deep: no word of 32 bits occurs twice."""

    def children(key):
        return [*jax.random.split(key, 20), *(jax.random.fold_in(key, n) for n in range(20))]

    first = children(typed(KEY))
    keys = [typed(KEY), *first, *children(first[0]), *children(first[20])]
    data = np.stack([jax.random.key_data(key) for key in keys])
    drawn = np.stack([np.asarray(jax.random.bits(key, (16,), jnp.uint32)) for key in keys[:41]])
    assert len(np.unique(data[:, 0])) == len(keys) == 121
    assert not np.isin(drawn, data).any() and len(np.unique(drawn)) == drawn.size


def test_keys_in_a_stack_draw_as_each_by_itself():
    keys = OTHER.noise_keys(0)
    together = jax.vmap(lambda key: jax.random.normal(key, (3, 5)))(keys)
    for key, drawn in zip(keys, together, strict=True):
        np.testing.assert_array_equal(drawn, jax.random.normal(key, (3, 5)))


def test_noise_is_normal_and_follows_key_and_step():
    def noise(key, step):
        return np.asarray(gaussian_noise(key.noise_keys(step), jnp.zeros(50_000), 2.0))

    first = noise(OTHER, 0)
    assert stats.kstest(first / 2, "norm").pvalue > 1e-3
    assert stats.kstest(first / 2 / 1.05, "norm").pvalue < 1e-6
    np.testing.assert_array_equal(first, noise(RunKey.from_seed(7, generator="chacha20"), 0))
    for key, step in ((OTHER, 1), (RunKey.from_seed(8, generator="chacha20"), 0)):
        assert abs(np.corrcoef(first, noise(key, step))[0, 1]) < 5 / np.sqrt(first.size)
    like = {"w": jnp.zeros((2, 128, 129)), "b": jnp.zeros(3)}
    drawn = gaussian_noise(RunKey.from_seed(0, generator="chacha20").noise_keys(1), like, 1.0)
    pinned = [*drawn["b"], drawn["w"][0, 0, 0], drawn["w"][1, 127, 128]]
    np.testing.assert_allclose(pinned, PINNED, atol=1e-5, err_msg="raise NOISE_VERSION")


PINNED = [0.238187, 1.086692, -2.086527, 0.021343, 0.751565]


def test_all_256_bits_reach_the_generator():
    keys = jax.random.key_data(OTHER.noise_keys(0))
    assert keys.shape == (4, 8) and len(np.unique(keys)) == 32
    changed = keys.at[0, 7].set(keys[0, 7] ^ 1)
    assert not np.isin(bits(typed(changed[0]), (64,)), bits(typed(keys[0]), (64,))).any()


def test_what_it_does_not_draw_is_refused():
    with pytest.raises(TypeError, match="256 bits, which no integer seed has"):
        jax.random.key(0, impl=chacha20.implementation())
    with pytest.raises(TypeError, match="words of 32 bits, got bit_width=8"):
        jax.random.bits(typed(KEY), (3,), jnp.uint8)
    with pytest.raises(ValueError, match="Did you mean 'chacha20'"):
        RunKey.from_os_entropy(generator="chacha2")


def test_a_run_key_keeps_its_generator():
    assert RunKey.from_dict(OTHER.to_dict()) == OTHER != RunKey.from_seed(7)
    assert "secret" not in repr(OTHER) and "chacha20" in repr(OTHER)
