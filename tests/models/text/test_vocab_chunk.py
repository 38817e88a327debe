"""When logits are computed in chunks: by their bytes beside those of the device."""

import pytest

from dpjax.models import LOGITS_SHARE, bytes_of_logits, choose_vocab_chunk

V6E, V5E, CPU = int(31.25 * 2**30), int(15.75 * 2**30), 24 * 10**9


@pytest.mark.parametrize(
    ("num_tokens", "vocab_size", "device_memory", "chunk"),
    [
        # GPT-2 small, 32 texts of 256 tokens on each chip: 1.64 GB of logits.
        (32 * 255, 50257, V6E, 4096),
        (32 * 255, 50257, V5E, 4096),
        # The same on one chip.
        (128 * 255, 50257, V6E, 4096),
        # So few tokens that all logits are a small part.
        (2 * 255, 50257, V6E, None),
        # A small model on a machine with 24 GB, as in the tests.
        (32 * 127, 1000, CPU, None),
        # So many that even 4,096 are a large part: 2¹⁹ · 4 · c ≤ 2²⁹.
        (2**19, 2**17, 2**34, 256),
        (2**18, 2**17, 2**34, 512),
        # No fewer than 256, and never more than there are.
        (2**24, 2**17, 2**34, 256),
        (2**24, 200, 2**34, None),
    ],
)
def test_by_the_memory_of_the_device(num_tokens, vocab_size, device_memory, chunk):
    assert choose_vocab_chunk(num_tokens, vocab_size, device_memory) == chunk


def test_the_bound_is_the_share():
    memory = LOGITS_SHARE * bytes_of_logits(1000, 50257)
    assert choose_vocab_chunk(1000, 50257, memory) is None
    assert choose_vocab_chunk(1000, 50257, memory - LOGITS_SHARE) == 4096


@pytest.mark.parametrize("name", ["num_tokens", "vocab_size", "device_memory"])
def test_numbers_below_one_are_refused(name):
    sizes = {"num_tokens": 10, "vocab_size": 10, "device_memory": 10}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        choose_vocab_chunk(**sizes | {name: 0})
