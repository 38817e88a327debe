"""The loss of every method against cases worked out by hand, and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.unlearning.losses import formulas

LOSS, RETAIN = jnp.float32(2.0), jnp.float32(0.5)


def test_grad_ascent_and_grad_diff_by_hand():
    assert formulas.grad_ascent(LOSS) == -2.0
    assert formulas.grad_diff(LOSS, RETAIN, retain_weight=3.0) == pytest.approx(-0.5)


def test_npo_by_hand():
    # The ratio is e^-2, so with beta 0.5 the loss is 4 log(1 + e^-1).
    loss = formulas.npo(jnp.float32(-6.0), jnp.float32(-4.0), RETAIN, beta=0.5, retain_weight=2.0)
    assert float(loss) == pytest.approx(4 * np.log(1 + np.exp(-1.0)) + 1.0, rel=1e-6)


def test_npo_is_minus_log_sigmoid_and_its_gradient_fades_as_the_record_is_forgotten():
    ratio, beta = np.float32(-1.3), 0.7
    loss = formulas.npo(ratio, jnp.float32(0), jnp.float32(0), beta=beta, retain_weight=0.0)
    expected = -2 / beta * np.log(1 / (1 + np.exp(beta * ratio)))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    slope = jax.grad(
        lambda r: formulas.npo(r, jnp.float32(0), jnp.float32(0), beta=0.1, retain_weight=0.0)
    )
    # Zhang et al. 2024, equation 4: the weight is 2 π^β / (π^β + π_ref^β), 1 at the start.
    assert float(slope(jnp.float32(0.0))) == pytest.approx(1.0)
    assert float(slope(jnp.float32(-100.0))) < 1e-3


def test_simnpo_by_hand():
    # -(2 / 2.5) log σ(2.5 · 2 − 1)
    loss = formulas.simnpo(LOSS, RETAIN, beta=2.5, margin=1.0, retain_weight=1.0)
    assert float(loss) == pytest.approx(0.8 * np.log(1 + np.exp(-4.0)) + 0.5, rel=1e-6)


def test_undial_by_hand():
    # One token of two counts. The reference finds both words equally probable; log 3 off the
    # target leaves it 1/4. The model gives it 1/2: the cross-entropy is log 2.
    reference = jnp.zeros((2, 2))
    logits = jnp.array([[0.0, 0.0], [5.0, -5.0]])
    loss = formulas.undial(
        logits,
        reference,
        jnp.array([0, 0]),
        jnp.array([True, False]),
        RETAIN,
        strength=float(np.log(3.0)),
        retain_weight=1.0,
    )
    assert float(loss) == pytest.approx(np.log(2.0) + 0.5, rel=1e-6)


def test_undial_is_least_at_the_lowered_reference():
    key, other = jax.random.split(jax.random.key(0))
    reference = jax.random.normal(key, (3, 5))
    targets, counts = jnp.array([1, 4, 0]), jnp.ones(3, bool)

    def loss(logits):
        return formulas.undial(
            logits, reference, targets, counts, jnp.float32(0), strength=2.0, retain_weight=0.0
        )

    lowered = reference - 2.0 * jax.nn.one_hot(targets, 5)
    assert np.abs(jax.grad(loss)(lowered)).max() < 1e-6
    assert loss(lowered + 0.1 * jax.random.normal(other, (3, 5))) > loss(lowered)


def test_rmu_by_hand():
    # Of the forget record only the first token is none of padding: ‖(3, 0) − 2 (1, 0)‖² = 1.
    # Of the retained record the tokens have moved by (0, 1) and (2, 0): the mean is 5/2.
    loss = formulas.rmu(
        jnp.array([[3.0, 0.0], [9.0, 9.0]]),
        jnp.array([True, False]),
        jnp.array([[0.0, 1.0], [2.0, 0.0]]),
        jnp.zeros((2, 2)),
        jnp.array([True, True]),
        jnp.array([1.0, 0.0]),
        steering=2.0,
        retain_weight=2.0,
    )
    assert float(loss) == pytest.approx(1.0 + 2 * 2.5)
