"""Losses of every structure that the clipped gradient must see through, or fall back on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from tests.support import structures_in_loops as structures_in_loops
from tests.support.structure_registry import STRUCTURES, structure


def build(name, seed=0):
    """The parameters, batch and loss of a structure."""
    rng = np.random.default_rng(seed)

    def random(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    def integers(high, *shape):
        return jnp.asarray(rng.integers(0, high, shape), jnp.int32)

    return STRUCTURES[name](random, integers)


@structure
def non_linear_custom_vjp(random, integers):
    """A backward rule that is not linear in the cotangent: scaling that would change the result."""

    @jax.custom_vjp
    def f(x, w):
        return jnp.tanh(x @ w)

    def forward(x, w):
        return f(x, w), (x, w)

    def backward(residuals, cotangent):
        x, w = residuals
        cotangent = jnp.clip(cotangent, -0.1, 0.1)
        return cotangent @ w.T, x.T @ cotangent

    f.defvjp(forward, backward)
    params = {"w": random(6, 5), "v": random(5, 5)}
    return params, random(4, 3, 6), lambda p, x: jnp.sum((f(x, p["w"]) @ p["v"]) ** 2)


@structure
def custom_jvp(random, integers):
    @jax.custom_jvp
    def f(x):
        return jnp.sin(x)

    @f.defjvp
    def rule(primals, tangents):
        return f(*primals), jnp.cos(primals[0]) * tangents[0] * 0.5

    params = {"w": random(6, 5)}
    return params, random(4, 3, 6), lambda p, x: jnp.sum(f(x @ p["w"]))


@structure
def branches(random, integers):
    params = {"w": random(6, 5), "u": random(6, 5), "v": random(5, 4)}

    def loss(p, x):
        h = jax.lax.cond(x[0, 0] > 0, lambda: x @ p["w"], lambda: jnp.sin(x @ p["u"]))
        return jnp.sum((h @ p["v"]) ** 2)

    return params, random(4, 3, 6), loss


@structure
def while_in_the_forward_pass(random, integers):
    params = {"w": random(6, 5)}

    def loss(p, x):
        count = jax.lax.while_loop(lambda n: n < 3 + jnp.sum(x > 0), lambda n: n + 2, 0)
        return jnp.sum(jnp.tanh(x @ p["w"])) * count

    return params, random(4, 3, 6), loss


@structure
def dropout_with_a_key_per_example(random, integers):
    params = {"w": random(6, 8), "v": random(8, 3)}
    batch = {"x": random(4, 5, 6), "key": jax.random.split(jax.random.key(3), 4)}

    def loss(p, example):
        h = jnp.tanh(example["x"] @ p["w"])
        kept = jax.random.bernoulli(example["key"], 0.7, h.shape)
        return jnp.sum((jnp.where(kept, h / 0.7, 0.0) @ p["v"]) ** 2)

    return params, batch, loss


@structure
def unused_parameters(random, integers):
    params = {"w": random(6, 3), "unused": random(4), "also": {"unused": random(2, 2)}}
    return params, random(4, 2, 6), lambda p, x: jnp.sum(jnp.sin(x @ p["w"]))


@structure
def one_weight_used_many_times(random, integers):
    params = {"w": random(6, 6, scale=0.3)}

    def loss(p, x):
        for _ in range(3):
            x = jnp.tanh(x @ p["w"])
        return jnp.sum(x @ p["w"].T) + jnp.sum(p["w"] ** 2) * x[0, 0]

    return params, random(4, 3, 6), loss


@structure
def computed_in_bfloat16(random, integers):
    params = {"w": random(6, 8), "v": random(8, 3)}

    def loss(p, x):
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), p)
        h = jnp.tanh(x.astype(jnp.bfloat16) @ low["w"])
        return jnp.sum((h @ low["v"]).astype(jnp.float32) ** 2)

    return params, random(4, 5, 6), loss


@structure
def slices_of_a_stacked_array(random, integers):
    params = {"w": random(3, 6, 6), "qk": random(6, 12)}

    def loss(p, x):
        for i in range(3):
            x = jnp.tanh(x @ p["w"][i])
        q, k = jnp.split(p["qk"], 2, axis=1)
        return jnp.sum((x @ q) * (x @ k)) + jnp.sum(x @ p["w"][0])

    return params, random(4, 3, 6), loss


@structure
def experts(random, integers):
    params = {"gate": random(6, 3), "w": random(3, 6, 5)}

    def loss(p, x):
        gate = jax.nn.softmax(x @ p["gate"])
        inner = jnp.tanh(jnp.einsum("td,edf->tef", x, p["w"]))
        return jnp.sum(jnp.einsum("te,tef->tf", gate, inner) ** 2)

    return params, random(4, 7, 6), loss


@structure
def associative_scan(random, integers):
    params = {"w": random(6, 5), "decay": random(5)}

    def loss(p, x):
        decay = jnp.broadcast_to(jax.nn.sigmoid(p["decay"]), (8, 5))

        def combine(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]

        _, h = jax.lax.associative_scan(combine, (decay, x @ p["w"]))
        return jnp.sum(h**2)

    return params, random(4, 8, 6), loss


@structure
def vmap_inside_the_loss(random, integers):
    params = {"w": random(6, 5), "heads": random(3, 5, 4)}

    def loss(p, x):
        h = jax.vmap(lambda token: jnp.tanh(token @ p["w"]))(x)
        return jnp.sum(jax.vmap(lambda w: jnp.sin(h @ w))(p["heads"]))

    return params, random(4, 3, 6), loss


def _take(mode):
    def make(random, integers):
        params = {"table": random(5, 4)}
        ids = integers(9, 4, 6) - 2
        return (
            params,
            ids,
            lambda p, i: jnp.sum(
                jnp.sin(jnp.nan_to_num(jnp.take(p["table"], i, axis=0, mode=mode)))
            ),
        )

    return make


for _mode in ("clip", "fill", "wrap"):
    STRUCTURES[f"take_{_mode}"] = _take(_mode)


@structure
def table_used_twice(random, integers):
    params = {"table": random(7, 4)}

    def loss(p, ids):
        return jnp.sum(jnp.sin(p["table"][ids]) * p["table"][ids[::-1]])

    return params, integers(7, 4, 6), loss


@structure
def attention(random, integers):
    params = {name: random(8, 2, 4) for name in "qkv"} | {"o": random(2, 4, 8)}

    def loss(p, x):
        q, k, v = (jnp.einsum("td,dhf->thf", x, p[name]) for name in "qkv")
        h = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return jnp.sum(jnp.einsum("thf,hfd->td", h, p["o"]) ** 2)

    return params, random(4, 5, 8), loss


@structure
def convolution(random, integers):
    params = {"kernel": random(3, 2, 4), "w": random(4, 3)}

    def loss(p, x):
        h = jax.lax.conv_general_dilated(
            x[None], p["kernel"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )[0]
        return jnp.sum((jnp.tanh(h) @ p["w"]) ** 2)

    return params, random(4, 6, 2), loss


@structure
def low_rank_adapter(random, integers):
    params = {"a": random(12, 2), "b": random(2, 10)}
    base = random(12, 10)
    return (
        params,
        random(4, 6, 12),
        lambda p, x: jnp.sum(jnp.tanh(x @ base + 0.5 * (x @ p["a"] @ p["b"]))),
    )


@structure
def linen_module(random, integers):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, ids):
            h = linen.LayerNorm()(linen.Embed(7, 6)(ids))
            return linen.Dense(3)(jnp.tanh(linen.Dense(8)(h)))

    ids = integers(7, 4, 5)
    params = Net().init(jax.random.key(0), ids[0])
    return params, ids, lambda p, i: jnp.sum(Net().apply(p, i) ** 2)


@structure
def nnx_module(random, integers):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(7, 6, rngs=rngs)
            self.dense = nnx.Linear(6, 8, rngs=rngs)
            self.norm = nnx.LayerNorm(8, rngs=rngs)

        def __call__(self, ids):
            return self.norm(self.dense(self.embed(ids)))

    graphdef, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)
    return (
        params,
        integers(7, 4, 5),
        lambda p, i: jnp.sum(jnp.sin(nnx.merge(graphdef, p)(i))),
    )


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=["scale"]
)
@dataclasses.dataclass
class Affine:
    """A module that is itself a pytree, as in Equinox."""

    weight: jax.Array
    bias: jax.Array
    scale: float

    def __call__(self, x):
        return self.scale * (x @ self.weight) + self.bias


@structure
def module_that_is_a_pytree(random, integers):
    params = [Affine(random(6, 5), random(5), 0.5), Affine(random(5, 3), random(3), 2.0)]
    return params, random(4, 3, 6), lambda p, x: jnp.sum(p[1](jnp.tanh(p[0](x))) ** 2)
