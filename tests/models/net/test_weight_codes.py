"""Codes of kernels: the published values, the nearest code to every entry, and nothing lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.models.net.weight_codes import decode, encode, kernel_in, normal_float_values

# Appendix E of arXiv:2305.14314.
PUBLISHED = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def draw(*shape):
    return np.asarray(jax.random.normal(jax.random.key(0), shape))


def test_the_values_are_the_published_ones():
    np.testing.assert_allclose(normal_float_values(), PUBLISHED, atol=2e-7)


def test_int8_has_a_scale_for_each_output_and_rounds_to_the_nearest():
    kernel = draw(70, 5) * [1e-6, 1.0, 30.0, 0.0, 1e4]
    codes, scales = encode(jnp.asarray(kernel), "int8")
    assert (codes.dtype, codes.shape) == (jnp.int8, (70, 5))
    assert (scales.dtype, scales.shape) == (jnp.float32, (1, 5))
    assert np.abs(codes).max(0).tolist() == [127, 127, 127, 0, 127]
    again = decode(codes, scales, 70)
    half_a_step = np.abs(kernel).max(0) / 254
    assert (np.abs(again - kernel) <= 1.001 * half_a_step).all()


@pytest.mark.parametrize("inputs", [64, 192, 65, 30])
def test_nf4_takes_the_nearest_code_in_groups_of_64(inputs):
    kernel = draw(inputs, 3) * [1.0, 1e-5, 0.0]
    codes, scales = encode(jnp.asarray(kernel), "nf4")
    groups = -(-inputs // 64)
    assert (codes.dtype, codes.shape) == (jnp.uint8, (32 * groups, 3))
    assert (scales.dtype, scales.shape) == (jnp.bfloat16, (groups, 3))
    again = np.asarray(decode(codes, scales, inputs))
    values = np.float32(normal_float_values())
    for row, column in np.ndindex(inputs, 3):
        group = kernel[row // 64 * 64 : row // 64 * 64 + 64, column]
        scale = np.float32(jnp.abs(group).max().astype(jnp.bfloat16))
        nearest = values[np.abs(values * scale - kernel[row, column]).argmin()] * scale
        assert again[row, column] == nearest


@pytest.mark.parametrize("quantise", ["int8", "nf4"])
def test_what_codes_stand_for_is_encoded_as_itself(quantise):
    codes, scales = encode(jnp.asarray(draw(128, 4)), quantise)
    kernel = decode(codes, scales, 128)
    np.testing.assert_allclose(decode(*encode(kernel, quantise), 128), kernel, rtol=1e-6)


@pytest.mark.parametrize("quantise", ["int8", "nf4"])
def test_layers_that_are_stacked_are_decoded_together(quantise):
    kernels = jnp.asarray(draw(3, 70, 4))
    pairs = [encode(kernel, quantise) for kernel in kernels]
    codes, scales = (jnp.stack(parts) for parts in zip(*pairs, strict=True))
    stacked = decode(codes, scales, 70)
    assert jnp.array_equal(stacked, jnp.stack([decode(*pair, 70) for pair in pairs]))
    filled_up = kernel_in({"codes": codes, "scales": scales})
    assert jnp.array_equal(filled_up[:, :70], stacked)
    assert not filled_up[:, 70:].any()
    assert kernel_in({"kernel": kernels}) is kernels
