"""Losses with loops: over layers, over time, over slices of a vocabulary, rematerialised or not."""

import functools

import jax
import jax.numpy as jnp

from tests.support.structure_registry import cross_entropy, structure


@structure
def dense_network(random, integers):
    params = {"w": random(6, 8), "b": random(8), "v": random(8)}
    return (
        params,
        random(4, 7, 6),
        lambda p, x: jnp.tanh(x @ p["w"] + p["b"]).mean(0) @ p["v"],
    )


@structure
def one_token(random, integers):
    params = {"w": random(6, 8), "b": random(8)}
    return params, random(4, 1, 6), lambda p, x: jnp.sum(jnp.tanh(x @ p["w"] + p["b"]))


@structure
def tied_scanned_rematerialised_decoder(random, integers):
    vocab, size, layers = 11, 6, 3
    params = {"table": random(vocab, size), "w": random(layers, size, size), "s": random(size)}

    def loss(p, ids):
        @jax.checkpoint
        def layer(h, w):
            return h + jnp.tanh(h @ w), None

        h, _ = jax.lax.scan(layer, p["table"][ids] * p["s"], p["w"])
        return cross_entropy((h @ p["table"].T)[:-1], ids[1:])

    return params, integers(vocab, 4, 7), loss


@structure
def head_in_slices(random, integers):
    """The last rows outside the loop."""
    params = {"table": random(11, 6), "head": random(6, 23)}

    def loss(p, ids):
        h, head = jnp.tanh(p["table"][ids]), p["head"].T

        def step(total, rows):
            return total + jnp.sum(jnp.sin(h @ rows.T), -1), None

        total, _ = jax.lax.scan(step, jnp.zeros(7), head[:20].reshape(4, 5, 6))
        return jnp.sum(total**2) + jnp.sum(jnp.cos(h @ head[20:].T))

    return params, integers(11, 4, 7), loss


def loss_over_tied_slices(start):
    """Slices from the last to the first, whose rows come second in the product; two lookups.

    `start(h)` is what the loop begins with.
    """

    def loss(p, ids):
        h = jnp.tanh((0.5 * p["table"][ids] + p["table"][ids[::-1]]) @ p["w"])

        @jax.checkpoint
        def step(total, rows):
            return total + jnp.sum(jnp.sin(rows @ h.T), 0), None

        slices = p["table"][1:].reshape(2, 5, 6)
        total, _ = jax.lax.scan(step, start(h), slices, reverse=True)
        return jnp.sum(total**2)

    return loss


@structure
def tied_head_in_slices_rematerialised(random, integers):
    params = {"table": random(11, 6), "w": random(6, 6)}
    return params, integers(11, 4, 7), loss_over_tied_slices(lambda h: jnp.zeros(7))


@structure
def reverse_scan_unrolled(random, integers):
    params = {"w": random(4, 5, 5), "b": random(4, 5), "v": random(4, 5)}

    def loss(p, x):
        def layer(h, parts):
            w, b, v = parts
            return jnp.tanh(h @ w + b) * v, jnp.sum(h)

        h, sums = jax.lax.scan(layer, x, (p["w"], p["b"], p["v"]), reverse=True, unroll=2)
        return jnp.sum(h**2) + jnp.sum(sums**2)

    return params, random(4, 3, 5), loss


@structure
def nested_scans(random, integers):
    params = {"w": random(2, 3, 5, 5, scale=0.5), "outer": random(2, 5, 5)}

    def loss(p, x):
        def outer(h, parts):
            ws, w = parts
            h, _ = jax.lax.scan(jax.checkpoint(lambda h, w: (jnp.tanh(h @ w), None)), h, ws)
            return h @ w, None

        h, _ = jax.lax.scan(outer, x, (p["w"], p["outer"]))
        return jnp.sum(h**2)

    return params, random(4, 3, 5), loss


@structure
def recurrent_network(random, integers):
    params = {"w": random(20, 20, scale=0.2), "u": random(3, 20), "b": random(20)}

    def loss(p, x):
        def cell(h, x):
            return jnp.tanh(h @ p["w"] + x @ p["u"] + p["b"]), None

        h, _ = jax.lax.scan(cell, jnp.zeros(20), x)
        return jnp.sum(h**2)

    return params, random(4, 5, 3), loss


@structure
def recurrent_layers(random, integers):
    """A weight shared by all steps of an inner loop, stacked over an outer one."""
    params = {"w": random(2, 12, 12, scale=0.3)}

    def loss(p, x):
        def layer(xs, w):
            return jax.lax.scan(lambda h, x: (jnp.tanh(h @ w + x),) * 2, jnp.zeros(12), xs)[1], None

        xs, _ = jax.lax.scan(layer, x, p["w"])
        return jnp.sum(xs**2)

    return params, random(4, 3, 12), loss


@structure
def saving_policy(random, integers):
    params = {"w": random(3, 5, 5), "u": random(3, 5, 5)}
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable

    def loss(p, x):
        @functools.partial(jax.checkpoint, policy=policy)
        def layer(h, parts):
            w, u = parts
            return jnp.tanh(jnp.tanh(h @ w) @ u), None

        return jnp.sum(jax.lax.scan(layer, x, (p["w"], p["u"]))[0] ** 2)

    return params, random(4, 3, 5), loss
