"""ChaCha20 as a generator of JAX: keys of 256 bits, of which noise is drawn.

The block function is that of RFC 8439, section 2.3. Every use of a key has a nonce of its own, so
that bits, keys that are split off and keys that are folded in never share a block: deriving keys is
a tree of pseudo-random functions. What is drawn depends on key and shape alone, and on no mesh.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

KEY_WORDS = 8
_BLOCK_WORDS = 16
_DOUBLE_ROUNDS = 10
_CONSTANTS = np.frombuffer(b"expand 32-byte k", "<u4").astype(np.uint32)
_BITS, _SPLIT, _FOLD = ((purpose, 0, 0) for purpose in range(3))
_MOST_BLOCKS = 2**32
# Blocks of a row of an array are its own, where few of their words are left over: devices that
# share rows then compute their own blocks alone.
_SHORTEST_ROW = 256


def blocks(key: jax.Array, counters: jax.Array, nonce: Sequence[int]) -> jax.Array:
    """Returns the key stream of ChaCha20 for each counter, `(..., 16)` uint32 in its order.

    Args:
        key: `(8,)` uint32, the 256 bits as little-endian words.
        counters: `(...)` uint32, the number of each block.
        nonce: three words.

    Example:
        The zero key, RFC 8439, appendix A.1.

        >>> words = blocks(jnp.zeros(8, jnp.uint32), jnp.zeros((), jnp.uint32), (0, 0, 0))
        >>> np.asarray(words).tobytes()[:8].hex()
        '76b8e0ada0f13d90'
    """
    words = [*_CONSTANTS, *(key[word] for word in range(KEY_WORDS)), counters, *nonce]
    start = [jnp.broadcast_to(jnp.asarray(word, jnp.uint32), counters.shape) for word in words]
    # A loop: unrolled, a compiler may compute all rounds again for each of the sixteen words.
    mixed = jax.lax.fori_loop(0, _DOUBLE_ROUNDS, lambda _, state: _double_round(state), start)
    return jnp.stack([a + b for a, b in zip(mixed, start, strict=True)], axis=-1)


def _double_round(state: Sequence[jax.Array]) -> list[jax.Array]:
    """Four columns, then four diagonals."""
    mixed = list(state)
    for shift in (0, 1):
        for column in range(4):
            rows = (4 * row + (column + shift * row) % 4 for row in range(4))
            _quarter_round(mixed, *rows)
    return mixed


def _quarter_round(s: list[jax.Array], a: int, b: int, c: int, d: int) -> None:
    for first, second, rotation_d, rotation_b in ((a, c, 16, 12), (a, c, 8, 7)):
        s[first] = s[first] + s[b]
        s[d] = _rotated(s[d] ^ s[first], rotation_d)
        s[second] = s[second] + s[d]
        s[b] = _rotated(s[b] ^ s[second], rotation_b)


def _rotated(word: jax.Array, bits: int) -> jax.Array:
    return (word << bits) | (word >> (32 - bits))


def _seed(seed: jax.Array) -> jax.Array:
    raise TypeError(
        "a ChaCha20 key has 256 bits, which no integer seed has. Take the keys of "
        'RunKey.from_os_entropy(generator="chacha20")'
    )


def _split(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    numbers = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    return blocks(key, numbers, _SPLIT)[..., :KEY_WORDS]


def _fold_in(key: jax.Array, data: int) -> jax.Array:
    return blocks(key, jnp.asarray(data, jnp.uint32), _FOLD)[:KEY_WORDS]


def _random_bits(key: jax.Array, bit_width: int, shape: Sequence[int]) -> jax.Array:
    if bit_width != 32:
        raise TypeError(f"ChaCha20 keys give words of 32 bits, got bit_width={bit_width}")
    size = math.prod(shape)
    row = shape[-1] if shape else 1
    if row % _BLOCK_WORDS and row < _SHORTEST_ROW:
        return _random_bits(key, 32, (-(-size // _BLOCK_WORDS) * _BLOCK_WORDS,))[:size].reshape(
            shape
        )
    of_blocks = (*shape[:-1], -(-row // _BLOCK_WORDS))
    if math.prod(of_blocks) > _MOST_BLOCKS:
        raise ValueError(f"a ChaCha20 key gives {_MOST_BLOCKS * _BLOCK_WORDS} words, got {size}")
    # From the place of each block, not by reshaping a range, which devices could not share.
    counters = jnp.zeros(of_blocks, jnp.uint32)
    for axis in range(len(of_blocks)):
        counters *= np.uint32(of_blocks[axis] % _MOST_BLOCKS)
        counters += jax.lax.broadcasted_iota(jnp.uint32, of_blocks, axis)
    words = blocks(key, counters, _BITS)
    return words.reshape(*of_blocks[:-1], -1)[..., :row]


@functools.cache
def implementation() -> Hashable:
    """Returns the generator, as `impl` of `jax.random.wrap_key_data`; the same object each time."""
    return define_prng_impl(
        key_shape=(KEY_WORDS,),
        seed=_seed,
        split=_split,
        random_bits=_random_bits,
        fold_in=_fold_in,
        name="chacha20",
        tag="cha",
    )
