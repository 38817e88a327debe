"""Local training of clients: against a loop over clients, with padding, and with bugs planted."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD

import dpjax
from dpjax.federated import ClientRecords, client_loss, local_update

CLIP_NORM = 0.3
COUNTS = (1, 40, 7, 3, 12)


def loss_fn(params, example):
    logits = example["x"] @ params["w"] + params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, example["y"])


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), "b": jnp.zeros(3)}


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(1)
    num = sum(COUNTS)
    return {
        "x": rng.normal(size=(num, 4)).astype(np.float32),
        "y": rng.integers(3, size=num).astype(np.int32),
    }


@pytest.fixture(scope="module")
def clients(records):
    names = [i for i, count in enumerate(COUNTS) for _ in range(count)]
    return ClientRecords(records, names, batch_size=4, at_most=40)


def everyone(clients):
    return clients.take(np.arange(len(COUNTS)))


def by_loop(params, records, *, epochs, optimizer):
    """The update of each client by plain Python: its own records, nothing padded."""
    grad = jax.grad(
        lambda p, batch: jnp.mean(jax.vmap(lambda e: loss_fn(p, e))(batch)),
    )
    starts = np.cumsum((0, *COUNTS))
    updates = []
    for first, last in itertools.pairwise(starts):
        local, state = params, optimizer.init(params)
        for _ in range(epochs):
            for at in range(first, last, 4):
                batch = {name: leaf[at : min(at + 4, last)] for name, leaf in records.items()}
                change, state = optimizer.update(grad(local, batch), state, local)
                local = optax.apply_updates(local, change)
        updates.append(jax.tree.map(lambda a, b: a - b, local, params))
    return updates


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


def clipped_sum_by_loop(updates):
    return sum(flat(u) * min(1.0, CLIP_NORM / np.linalg.norm(flat(u))) for u in updates)


@pytest.mark.parametrize("make", (lambda: optax.sgd(0.5), lambda: optax.adam(0.05)))
def test_updates_are_those_of_a_loop_over_clients_without_padding(params, records, clients, make):
    optimizer = make()
    train = jax.vmap(lambda c: local_update(loss_fn, optimizer, params, c, epochs=2))
    done = train(everyone(clients))
    for i, expected in enumerate(by_loop(params, records, epochs=2, optimizer=optimizer)):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], done.update)
        np.testing.assert_allclose(flat(own), flat(expected), atol=1e-6)
    assert done.num_steps.tolist() == [2 * -(-count // 4) for count in COUNTS]


@pytest.mark.parametrize("clients_at_once", (None, 2))
@pytest.mark.parametrize("strategy", ("materialize", "one_backward", "two_backwards"))
def test_the_clipped_sum_is_that_of_a_loop_over_clients(
    params, records, clients, strategy, clients_at_once
):
    clipped = dpjax.clipped_grad(
        client_loss(loss_fn, optax.sgd(0.5), epochs=2),
        clip_norm=CLIP_NORM,
        strategy=strategy,
        microbatch_size=clients_at_once,
    )
    result = jax.jit(clipped)(params, everyone(clients))
    updates = by_loop(params, records, epochs=2, optimizer=optax.sgd(0.5))
    # The pseudo-gradient is minus the update.
    np.testing.assert_allclose(-flat(result.grads), clipped_sum_by_loop(updates), atol=1e-6)
    np.testing.assert_allclose(result.norms, [np.linalg.norm(flat(u)) for u in updates], rtol=1e-5)


def test_a_masked_batch_changes_nothing_not_even_the_optimizer(params):
    nothing = {"x": jnp.full((3, 2, 4), jnp.nan), "y": jnp.zeros((3, 2), jnp.int32)}
    one = {"x": jnp.ones((1, 2, 4)), "y": jnp.zeros((1, 2), jnp.int32)}
    real = {"examples": one, "mask": jnp.ones((1, 2), bool)}
    padded = {
        "examples": jax.tree.map(lambda a, b: jnp.concatenate([a, b, a]), nothing, one),
        "mask": jnp.array([[False] * 2] * 3 + [[True] * 2] + [[False] * 2] * 3),
    }
    optimizer = optax.adam(0.1)
    first = local_update(loss_fn, optimizer, params, real, epochs=3)
    second = local_update(loss_fn, optimizer, params, padded, epochs=3)
    np.testing.assert_allclose(flat(first.update), flat(second.update), rtol=1e-6)
    assert float(first.loss) == pytest.approx(float(second.loss))
    empty = {"examples": nothing, "mask": jnp.zeros((3, 2), bool)}
    done = local_update(loss_fn, optimizer, params, empty)
    assert (float(done.loss), int(done.num_steps)) == (0, 0)
    assert not flat(done.update).any()


@pytest.mark.parametrize("strategy", ("materialize", "one_backward", "two_backwards"))
def test_a_client_whose_training_diverges_contributes_nothing(params, clients, strategy):
    cohort = everyone(clients)
    cohort["examples"]["x"][1] = np.inf
    loss = client_loss(loss_fn, optax.sgd(0.5))
    clipped = dpjax.clipped_grad(loss, clip_norm=CLIP_NORM, strategy=strategy)
    result = jax.jit(clipped)(params, cohort)
    mask = jnp.arange(len(COUNTS)) != 1
    without = jax.jit(clipped)(params, everyone(clients), mask)
    assert result.counted.tolist() == mask.tolist()
    np.testing.assert_allclose(flat(result.grads), flat(without.grads), atol=1e-7)


@pytest.mark.parametrize("local_rate", (1e-3, 1.0, 1e3))
def test_one_client_moves_the_sum_by_at_most_the_clip_norm(params, clients, local_rate):
    clipped = jax.jit(
        dpjax.clipped_grad(client_loss(loss_fn, optax.sgd(local_rate)), clip_norm=CLIP_NORM)
    )
    whole = flat(clipped(params, everyone(clients)).grads)
    for left_out in range(len(COUNTS)):
        mask = jnp.arange(len(COUNTS)) != left_out
        moved = whole - flat(clipped(params, everyone(clients), mask).grads)
        assert np.linalg.norm(moved) <= CLIP_NORM * (1 + 1e-6)


def test_clipping_the_local_steps_instead_is_caught(params, clients):
    """The planted bug: each local gradient is clipped, and the update of many steps is not."""

    def clip_gradients(grads, state, params=None):
        norm = jnp.linalg.norm(jnp.concatenate([g.ravel() for g in jax.tree.leaves(grads)]))
        factor = jnp.minimum(1.0, CLIP_NORM / norm)
        return jax.tree.map(lambda g: -0.5 * factor * g, grads), state

    buggy = optax.GradientTransformation(lambda params: (), clip_gradients)
    train = jax.vmap(lambda c: local_update(loss_fn, buggy, params, c, epochs=2).update)
    updates = train(everyone(clients))
    norms = np.linalg.norm(
        np.stack([flat(jax.tree.map(lambda u, i=i: u[i], updates)) for i in range(len(COUNTS))]),
        axis=1,
    )
    assert norms.max() > 2 * CLIP_NORM


def rounds_of(mechanism, clients, params, *, num=1, **arguments):
    private = dpjax.private_gradient(
        client_loss(loss_fn, optax.sgd(0.5)),
        mechanism=mechanism,
        run_key=dpjax.RunKey.from_seed(3),
        strategy="materialize",
        **arguments,
    )
    clip_norm = CLIP_NORM
    for step in range(num):
        is_adaptive = "rule" in arguments
        total = private.zeros(params, step, *((clip_norm,) if is_adaptive else ()))
        for rows, mask in private.batches(step, microbatch_size=2):
            total = private.add(total, params, clients.take(rows), mask)
        released = private.release(total, step)
        released, clip_norm = released if is_adaptive else (released, clip_norm)
        params = jax.tree.map(lambda p, g: p - g, params, released)
    return params, clip_norm


def test_noise_is_that_of_the_mechanism_once_a_round(params, clients):
    """Noise per client, another planted bug, would be √5 times as large."""
    mechanism = DPSGD(num_units=5, expected_batch_size=5, noise_multiplier=200.0, num_steps=60)
    moved, _ = rounds_of(mechanism, clients, params, num=60, clip_norm=CLIP_NORM)
    stddev = 200.0 * CLIP_NORM / 5 * np.sqrt(60)
    found = np.sqrt(np.mean((flat(moved) - flat(params)) ** 2)) / stddev
    assert 0.5 < found < 1.6


def test_an_adaptive_clip_norm_follows_the_norms_of_updates(params, clients):
    mechanism = DPSGD(num_units=5, expected_batch_size=5, noise_multiplier=0.01, num_steps=20)
    rule = dpjax.AdaptiveClipping(target_quantile=0.5, count_stddev=0.1)
    _, clip_norm = rounds_of(mechanism, clients, params, num=20, rule=rule)
    assert float(clip_norm) > 0
    assert float(clip_norm) != pytest.approx(CLIP_NORM)


def test_federated_averaging_of_everyone_is_the_mean_of_local_models(params, records, clients):
    loss = client_loss(loss_fn, optax.sgd(0.5))
    grads = jax.jit(dpjax.clipped_grad(loss, clip_norm=1e6))(params, everyone(clients)).grads
    mean = jax.tree.map(lambda g: g / len(COUNTS), grads)
    server = optax.sgd(1.0)
    change, _ = server.update(mean, server.init(params))
    updates = by_loop(params, records, epochs=1, optimizer=optax.sgd(0.5))
    models = [flat(params) + flat(update) for update in updates]
    np.testing.assert_allclose(
        flat(optax.apply_updates(params, change)), np.mean(models, axis=0), atol=1e-6
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sums_over_a_cohort_are_those_of_drjax(params, clients):
    drjax = pytest.importorskip("drjax")
    cohort = everyone(clients)

    @drjax.program(placements={"clients": len(COUNTS)})
    def summed(params, cohort):
        everywhere = drjax.broadcast(params)
        updates = drjax.map_fn(
            lambda params, client: local_update(loss_fn, optax.sgd(0.5), params, client).update,
            (everywhere, cohort),
        )
        return drjax.reduce_sum(updates)

    loss = client_loss(loss_fn, optax.sgd(0.5))
    own = jax.jit(dpjax.clipped_grad(loss, clip_norm=1e6))(params, cohort).grads
    np.testing.assert_allclose(-flat(own), flat(summed(params, cohort)), atol=1e-6)


def test_misuse_is_refused(params):
    examples, mask = {"x": jnp.ones((2, 3, 4))}, jnp.ones((2, 3), bool)
    optimizer = optax.sgd(0.1)

    def train(client, params=params, **options):
        return local_update(lambda p, e: jnp.sum(e["x"]), optimizer, params, client, **options)

    with pytest.raises(ValueError, match=r"'examples' and 'mask', got \['x'\]"):
        train(examples)
    with pytest.raises(ValueError, match=r"same two leading axes"):
        train({"examples": examples, "mask": mask[:1]})
    with pytest.raises(ValueError, match=r"\(S, b\), got \(2,\)"):
        train({"examples": examples, "mask": mask[:, 0]})
    with pytest.raises(TypeError, match="boolean"):
        train({"examples": examples, "mask": mask.astype(jnp.float32)})
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        train({"examples": examples, "mask": mask}, epochs=0)
    with pytest.raises(TypeError, match=r"params\['n'\] has dtype int32"):
        train({"examples": examples, "mask": mask}, params={"n": jnp.zeros(2, jnp.int32)})
