"""Exact samples of discrete distributions: whole numbers alone, by rejection.

Source: Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy",
arXiv:2004.00010, Algorithms 1 to 3. A sample has exactly the distribution that is stated, if the
bits are uniform. How long it takes depends on what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator


class RandomBits:
    r"""Uniform whole numbers from a stream of uniform bytes.

    Args:
        blocks: the bytes, block after block, without an end; nothing else may read them.

    Example:
        >>> RandomBits(iter([b"\x05", b"\xff"])).below(8)
        5
    """

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._bits, self._length = 0, 0

    def below(self, bound: int) -> int:
        """Draws a whole number from 0 to `bound` - 1, each as likely as the others."""
        size = (bound - 1).bit_length()
        while True:
            while self._length < size:
                block = next(self._blocks)
                self._bits |= int.from_bytes(block, "little") << self._length
                self._length += 8 * len(block)
            number = self._bits & ((1 << size) - 1)
            self._bits >>= size
            self._length -= size
            if number < bound:
                return number


def bernoulli_exp(bits: RandomBits, numerator: int, denominator: int) -> bool:
    """Draws True with probability exp(-numerator / denominator): Algorithm 1.

    Args:
        bits: where randomness comes from.
        numerator: at least 0.
        denominator: at least 1.

    Example:
        >>> bernoulli_exp(RandomBits(iter([])), 0, 1)
        True
    """
    while numerator > denominator:
        if not bernoulli_exp(bits, 1, 1):
            return False
        numerator -= denominator
    # Stops at k with probability γ^(k-1)/(k-1)! - γ^k/k!: the odd ones add up to the series of
    # exp(-γ).
    k = 1
    while bits.below(k * denominator) < numerator:
        k += 1
    return k % 2 == 1


def discrete_laplace(bits: RandomBits, scale: int) -> int:
    """Draws x with probability in proportion to exp(-|x| / scale): Algorithm 2, with s = 1.

    Args:
        bits: where randomness comes from.
        scale: at least 1.
    """
    while True:
        remainder = bits.below(scale)
        if not bernoulli_exp(bits, remainder, scale):
            continue
        quotient = 0
        while bernoulli_exp(bits, 1, 1):
            quotient += 1
        size = remainder + scale * quotient
        is_negative = bits.below(2) == 1
        # Zero has no sign, and would be drawn twice as often.
        if not (is_negative and size == 0):
            return -size if is_negative else size


def discrete_gaussian(bits: RandomBits, variance: int) -> int:
    """Draws x with probability in proportion to exp(-x² / (2 · variance)): Algorithm 3.

    The variance of x is a little below `variance`; from 1 on, they agree to 14 digits.

    Args:
        bits: where randomness comes from.
        variance: at least 1.

    Example:
        >>> from dpjax import RunKey
        >>> bits = RandomBits(RunKey.from_seed(1).noise_blocks(step=0))
        >>> draws = [discrete_gaussian(bits, 100) for _ in range(2000)]
        >>> 9 < (sum(x * x for x in draws) / 2000) ** 0.5 < 11
        True
    """
    scale = math.isqrt(variance) + 1
    while True:
        x = discrete_laplace(bits, scale)
        if bernoulli_exp(bits, (abs(x) * scale - variance) ** 2, 2 * variance * scale**2):
            return x
