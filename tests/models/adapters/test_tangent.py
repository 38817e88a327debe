"""Adapters in the tangent space: what is clipped, and steps that do not see how A B is split."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dpjax.basics.lora_config import LoraConfig
from dpjax.models import (
    Trainable,
    add_lora,
    load_adapter,
    merge_lora,
    save_adapter,
    split_trainable,
    tangent_lora,
    tangent_product,
)
from dpjax.models.adapters.tangent.geometry import Point, Tangent
from dpjax.models.adapters.tangent.product import frames
from dpjax.models.adapters.tangent.steps import Rule
from dpjax.privatize import clipped_grad
from tests.support.tiny_checkpoints import random_model

INPUTS, OUTPUTS, RANK, RECORDS, CLIP_NORM = 7, 5, 2, 6, 0.05
ONE_STEP = {"momentum": 0.0}


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


KERNEL = draw(0, INPUTS, OUTPUTS)
RECORDS_XY = (draw(1, RECORDS, 3, INPUTS), draw(2, RECORDS, 3, OUTPUTS))


def adapter():
    return {"lora_a": draw(3, INPUTS, RANK), "lora_b": draw(4, RANK, OUTPUTS)}


def in_another_gauge(params):
    turn = jnp.array([[5.0, 2.0], [0.1, 0.3]])
    return {"lora_a": params["lora_a"] @ turn, "lora_b": jnp.linalg.inv(turn) @ params["lora_b"]}


def product(params):
    return np.asarray(params["lora_a"] @ params["lora_b"])


def loss_of(update):
    x, y = update
    return jnp.mean((jnp.tanh(x) - y) ** 2)


def loss(params, record):
    x, y = record
    return loss_of((x @ KERNEL + tangent_product(x, params["lora_a"], params["lora_b"]), y))


def plain_loss(params, record):
    x, y = record
    return loss_of((x @ (KERNEL + params["lora_a"] @ params["lora_b"]), y))


def whole_gradient(params, index):
    """The gradient with respect to A B, (in, out), of one record."""
    x, y = (leaf[index] for leaf in RECORDS_XY)
    return jax.grad(lambda z: loss_of((x @ (KERNEL + z), y)))(product(params))


def projected(params, matrix):
    """The part of a matrix in the tangent space, with projectors written out."""
    a, b = np.float64(params["lora_a"]), np.float64(params["lora_b"])
    on_a = a @ np.linalg.inv(a.T @ a) @ a.T
    on_b = b.T @ np.linalg.inv(b @ b.T) @ b
    matrix = np.float64(matrix)
    return on_a @ matrix + matrix @ on_b - on_a @ matrix @ on_b


def matrix_of(params, coordinates):
    """X Rᵀ + L Y."""
    left, right = frames(params["lora_a"], params["lora_b"])
    return np.asarray(coordinates["lora_a"] @ right.T + left @ coordinates["lora_b"])


def clipped_sum(loss_fn, params, strategy="auto", clip_norm=CLIP_NORM):
    mask = jnp.arange(RECORDS) != 1
    return compiled_sum(loss_fn, strategy, clip_norm)(params, mask)


@functools.cache
def compiled_sum(loss_fn, strategy, clip_norm):
    clipped = clipped_grad(loss_fn, clip_norm=clip_norm, strategy=strategy)
    return jax.jit(lambda params, mask: clipped(params, RECORDS_XY, mask).grads)


def run(optimizer, params, gradients):
    """The parameters after a step for each gradient."""

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params


def test_the_value_is_that_of_the_product():
    params, x = adapter(), RECORDS_XY[0]
    found = tangent_product(x, params["lora_a"], params["lora_b"])
    np.testing.assert_allclose(found, x @ product(params), rtol=1e-5, atol=1e-5)


def test_what_reaches_lower_layers_is_the_ordinary_gradient():
    params, x = adapter(), RECORDS_XY[0][0]

    def of_x(function):
        return jax.grad(lambda x: jnp.sum(jnp.sin(function(x))))(x)

    found = of_x(lambda x: tangent_product(x, params["lora_a"], params["lora_b"]))
    np.testing.assert_allclose(found, of_x(lambda x: x @ product(params)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", ["materialize", "one_backward", "two_backwards"])
def test_clipped_sums_are_those_of_projected_gradients(strategy):
    params = adapter()
    expected = np.zeros((INPUTS, OUTPUTS))
    for index in (0, 2, 3, 4, 5):
        tangent = projected(params, whole_gradient(params, index))
        expected += tangent * min(1.0, CLIP_NORM / np.linalg.norm(tangent))
    found = matrix_of(params, clipped_sum(loss, params, strategy))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_record_moves_the_sum_by_no_more_than_the_clip_norm():
    params = adapter()
    for index in range(RECORDS):
        mask = jnp.arange(RECORDS) == index
        found = compiled_sum(loss, "auto", CLIP_NORM)(params, mask)
        norm = np.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in found.values()))
        assert norm <= CLIP_NORM * (1 + 1e-6)


def test_clipped_sums_do_not_depend_on_the_gauge_and_those_of_factors_do():
    params = adapter()
    other = in_another_gauge(params)
    sums = [matrix_of(p, clipped_sum(loss, p)) for p in (params, other)]
    np.testing.assert_allclose(*sums, atol=1e-5)

    def change_of_product(p):
        moved = jax.tree.map(lambda leaf, g: leaf - 0.1 * g, p, clipped_sum(plain_loss, p))
        return product(moved) - product(p)

    # Without this the test above would pass for LoRA as it is.
    assert np.abs(change_of_product(params) - change_of_product(other)).max() > 1e-3


@pytest.mark.parametrize(
    ("rule", "rate", "options"),
    [
        ("sgd", 2.0, {}),
        ("sgd", 5.0, ONE_STEP),
        ("adam", 0.05, {}),
        ("adam-bc", 0.05, {"noise_stddev": 1e-3}),
    ],
)
def test_training_does_not_depend_on_the_gauge(rule: Rule, rate, options):
    optimizer = tangent_lora(optax.sgd(0.1), lambda step: rate, rule=rule, **options)

    @jax.jit
    def step(params, state):
        # Means, because of what Adam makes of roundings.
        gradient = jax.tree.map(lambda g: g / RECORDS, clipped_sum(loss, params))
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    ends = []
    for params in (adapter(), in_another_gauge(adapter())):
        start, state = product(params), optimizer.init(params)
        for _ in range(6):
            params, state = step(params, state)
        ends.append(product(params))
    assert np.abs(ends[0] - start).max() > 0.03
    np.testing.assert_allclose(*ends, atol=2e-4)


def test_a_step_is_the_nearest_matrix_of_the_rank():
    params = adapter()
    gradient = clipped_sum(loss, params, clip_norm=1e3)
    optimizer = tangent_lora(optax.sgd(0.1), lambda step: 0.3, **ONE_STEP)
    moved = run(optimizer, params, [gradient])
    target = product(params) - 0.3 * matrix_of(params, gradient)
    u, sizes, vt = np.linalg.svd(target)
    expected = (u[:, :RANK] * sizes[:RANK]) @ vt[:RANK]
    np.testing.assert_allclose(product(moved), expected, atol=1e-5)
    assert sizes[RANK] > 1e-3
    gram = moved["lora_a"].T @ moved["lora_a"]
    np.testing.assert_allclose(gram, moved["lora_b"] @ moved["lora_b"].T, atol=1e-5)
    np.testing.assert_allclose(gram, np.diag(sizes[:RANK]), atol=1e-5)


def test_noise_along_a_is_not_counted_twice():
    params = adapter()
    left, _ = frames(params["lora_a"], params["lora_b"])
    noise = {"lora_a": left @ draw(8, RANK, RANK), "lora_b": jnp.zeros((RANK, OUTPUTS))}
    optimizer = tangent_lora(optax.sgd(0.1), lambda step: 1.0)
    moved = run(optimizer, params, [noise])
    np.testing.assert_allclose(product(moved), product(params), atol=1e-5)


def test_means_are_carried_by_projection():
    here, there = (
        {"lora_a": draw(k, INPUTS, RANK), "lora_b": draw(k + 1, RANK, OUTPUTS)} for k in (10, 12)
    )
    point, to = (Point.of(p["lora_a"], p["lora_b"]) for p in (here, there))
    change = point.project(Tangent(draw(14, INPUTS, RANK), draw(15, RANK, OUTPUTS)))
    carried = point.carry(change, to)
    dense = matrix_of(here, {"lora_a": change.x, "lora_b": change.y})
    found = matrix_of(there, {"lora_a": carried.x, "lora_b": carried.y})
    np.testing.assert_allclose(found, projected(there, dense), atol=1e-4)
    square = draw(16, RANK, RANK)
    square = square @ square.T
    for turned in point.turn(square, square, to):
        values = [np.linalg.eigvalsh(m) for m in (turned, square)]
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "noise_stddev"), [("adam", 0.0), ("adam-bc", 0.01), ("adam-bc", 1e3)]
)
def test_directions_are_those_of_the_formulas(rule: Rule, noise_stddev):
    params = adapter()
    # Far from zero, so that the step back to the rank hardly changes the direction.
    params = jax.tree.map(lambda leaf: 100 * leaf, params)
    gradient = clipped_sum(loss, params, clip_norm=1e3)
    left, right = (np.float64(f) for f in frames(params["lora_a"], params["lora_b"]))
    x, y = np.float64(gradient["lora_a"]), np.float64(gradient["lora_b"])
    x += draw(20, INPUTS, RANK) - left @ (left.T @ draw(20, INPUTS, RANK))
    y += draw(21, RANK, OUTPUTS)
    gradient = {"lora_a": jnp.float32(x), "lora_b": jnp.float32(y)}
    least = 5e-8 if rule == "adam-bc" else 0.0

    def inverse_root(square):
        values, vectors = np.linalg.eigh(square)
        return vectors @ np.diag(np.maximum(values - noise_stddev**2, least) ** -0.5) @ vectors.T

    direction = x @ inverse_root(x.T @ x / (INPUTS - RANK)) @ right.T
    direction += left @ inverse_root(y @ y.T / OUTPUTS) @ y
    rate = 1.0 if noise_stddev < 1 else 1e-4
    optimizer = tangent_lora(
        optax.sgd(0.1), lambda step: rate, rule=rule, noise_stddev=noise_stddev
    )
    moved = run(optimizer, params, [gradient])
    change, before = (np.float64(p["lora_a"]) @ np.float64(p["lora_b"]) for p in (moved, params))
    change -= before
    np.testing.assert_allclose(change, -rate * direction, atol=0.02)


def test_a_fresh_adapter_changes_nothing_and_learns():
    params = {"lora_a": draw(3, INPUTS, RANK), "lora_b": jnp.zeros((RANK, OUTPUTS))}
    optimizer = tangent_lora(optax.sgd(0.1), lambda step: 0.3)
    x, y = RECORDS_XY

    @jax.jit
    def step(params, state):
        mean_loss = jnp.mean(jax.vmap(loss, (None, 0))(params, RECORDS_XY))
        gradient = compiled_sum(loss, "auto", 1e3)(params, jnp.ones(RECORDS, bool))
        gradient = jax.tree.map(lambda g: g / RECORDS, gradient)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, mean_loss

    losses, state = [], optimizer.init(params)
    for _ in range(30):
        params, state, mean_loss = step(params, state)
        losses.append(float(mean_loss))
    np.testing.assert_allclose(losses[0], loss_of((x @ KERNEL, y)), rtol=1e-5)
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_stacked_layers_move_as_layers_of_their_own(rule: Rule):
    layers = [
        {"lora_a": draw(30 + k, INPUTS, RANK), "lora_b": draw(40 + k, RANK, OUTPUTS)}
        for k in range(3)
    ]
    grads = [jax.tree.map(lambda leaf: jnp.cos(3 * leaf), layer) for layer in layers]
    optimizer = tangent_lora(optax.sgd(0.1), lambda step: 0.1, rule=rule)

    of_all, gradient = (jax.tree.map(lambda *x: jnp.stack(x), *each) for each in (layers, grads))
    stacked = run(optimizer, of_all, [gradient] * 2)
    for index, (layer, gradient) in enumerate(zip(layers, grads, strict=True)):
        alone = run(optimizer, layer, [gradient] * 2)
        for name, leaf in alone.items():
            np.testing.assert_allclose(leaf, stacked[name][index], atol=1e-4)


def test_all_else_moves_with_the_other_optimizer():
    params = {"classifier": {"kernel": jnp.ones(3)}, "layers": {0: {"q": adapter()}}}
    gradient = jax.tree.map(jnp.ones_like, params)
    optimizer = tangent_lora(optax.adam(0.1), lambda step: 0.2)
    updates, state = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["classifier"]["kernel"], -0.1 * np.ones(3), rtol=1e-4)
    alone, _ = tangent_lora(optax.adam(0.1), lambda step: 0.2).update(
        gradient["layers"][0]["q"], optimizer.init(adapter()), adapter()
    )
    jax.tree.map(np.testing.assert_allclose, updates["layers"][0]["q"], alone)
    assert list(state.moments) == ["layers.0.q"]


def test_a_frozen_a_is_refused():
    with pytest.raises(ValueError, match=r"lora.freeze_a=True .* leave out lora.gauge=tangent"):
        LoraConfig(freeze_a=True, gauge="tangent")
    with pytest.raises(ValueError, match=r"lora.gauge.*'tangents'.*tangent"):
        LoraConfig(gauge="tangents")


def test_what_is_saved_is_an_ordinary_adapter(shallow_model, folder, batch, tmp_path):
    model = shallow_model
    bare = nnx.clone(model)
    add_lora(model, LoraConfig(rank=RANK, gauge="tangent"), key=jax.random.key(1))
    trainable = split_trainable(model, Trainable.lora())
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.cos(50 * leaf), trainable.trainable)
    model = trainable.replace(trainable=moved).merge()
    expected = np.asarray(model(*batch))
    save_adapter(model, tmp_path / "adapter", base=folder)
    load_adapter(bare, tmp_path / "adapter")
    assert bare.lora.gauge == "factors"
    np.testing.assert_allclose(bare(*batch), expected, atol=1e-6)
    merge_lora(model)
    np.testing.assert_allclose(model(*batch), expected, atol=1e-5)


def test_a_rank_above_the_size_of_a_layer_is_refused(shallow_model):
    lora = LoraConfig(rank=25, gauge="tangent")
    with pytest.raises(ValueError, match=r"lora.rank must be at most 24 .* got 25"):
        add_lora(shallow_model, lora, key=jax.random.key(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, r"lora\.use_dora=True makes the weight of more than W \+ A B"),
        ({"freeze_a": True}, r"lora\.freeze_a=True leaves no choice"),
    ],
)
def test_what_makes_another_weight_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(gauge="tangent", **options)


@pytest.mark.parametrize("family, name", [("gpt2", "wte"), ("llama", "lm_head")])
def test_tables_have_no_tangent_space(family, name):
    model = random_model(family, "causal_lm")
    config = LoraConfig(rank=2, target_modules=(name,), gauge="tangent")
    with pytest.raises(ValueError, match=rf"gauge=tangent is for linear layers .* names .*{name}"):
        add_lora(model, config, key=jax.random.key(0))
