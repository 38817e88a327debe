"""A linear layer with a low-rank adapter beside it (LoRA: Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.basics.lora_config import Gauge
from dpjax.models.adapters.tangent.product import tangent_product
from dpjax.models.net.layers import Addition, Linear, lifted
from dpjax.models.net.quantised import QuantisedLinear


class LoraParam(nnx.Param):
    """A parameter of a low-rank adapter that is trained.

    Example:
        >>> from dpjax.models import CausalLM, LoraConfig, add_lora, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2, target_modules=("c_attn",)), key=jax.random.key(0))
        >>> sorted({path[-1] for path, _ in nnx.to_flat_state(nnx.state(model, LoraParam))})
        ['lora_a', 'lora_b']
    """


class FrozenLoraParam(nnx.Param):
    """A parameter of a low-rank adapter that stays as it is."""


class DropoutKey(nnx.Variable):
    """The data of a JAX key, `(2,)` uint32, from which an adapter draws what it drops."""


class LoraLinear(nnx.Module):
    """`y = base(x) + scaling * (x A) B`, with A `(in, r)` and B `(r, out)`, both float32.

    A starts uniform in ±1/√in (the initialisation of peft: Kaiming uniform with a = √5), B at zero:
    a fresh adapter changes nothing. With `freeze_a` only B is trained. On stacked layers A and B
    have the leading axis of the base's kernel. A fused projection has one A and one B. Where
    `drop_inputs` has left a key, the adapter reads x with dropout (Srivastava et al. 2014).

    With `use_dora` there is a magnitude m `(out,)` float32 (DoRA: Liu et al. 2024,
    arXiv:2402.09353): with V = W + scaling * A B, y = x V m / ‖V‖ + bias, where ‖V‖ are the lengths
    of the columns of V. m starts at those of W. As in section 4.3 of the paper and in peft, no
    gradient flows through ‖V‖; with dropout, what m / ‖V‖ − 1 adds reads the dropped x too.

    With `gauge="tangent"` gradients are those of `tangent_product`, and steps those of
    `tangent_lora`.

    Example:
        >>> from dpjax.models.net.layers import Linear
        >>> base = Linear(6, 4, bias=False, stddev=0.02, rngs=nnx.Rngs(0))
        >>> adapted = LoraLinear(base, rank=2, scaling=2.0, key=jax.random.key(0))
        >>> adapted.lora_a.shape, adapted.lora_b.shape
        ((6, 2), (2, 4))
        >>> x = jnp.ones((1, 6))
        >>> bool((adapted(x) == base(x)).all())
        True
    """

    def __init__(
        self,
        base: Linear | QuantisedLinear,
        *,
        rank: int,
        scaling: float,
        key: jax.Array,
        freeze_a: bool = False,
        dropout: float = 0.0,
        use_dora: bool = False,
        gauge: Gauge = "factors",
    ):
        *layers, inputs, outputs = base.kernel_shape
        if gauge == "tangent" and rank > min(inputs, outputs):
            raise ValueError(
                f"lora.rank must be at most {min(inputs, outputs)} with lora.gauge=tangent, got "
                f"{rank}: a layer has {inputs} inputs and {outputs} outputs. Lower the rank, or "
                "leave out lora.gauge"
            )
        self.base = base
        self.scaling = scaling
        self.dropout = dropout
        self.gauge = gauge
        self.dropout_key: DropoutKey | None = None
        a = draw_a(key, (*layers, inputs, rank))
        self.lora_a = FrozenLoraParam(a) if freeze_a else LoraParam(a)
        self.lora_b = LoraParam(jnp.zeros((*layers, rank, outputs), jnp.float32))
        self.lora_magnitude = LoraParam(column_lengths(base.full_kernel())) if use_dora else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., in)` to `(..., out)`."""
        dropped = self._dropped(x)
        if self.gauge == "tangent":
            product = tangent_product(dropped, self.lora_a[...], self.lora_b[...])
        else:
            a, b = (part[...].astype(x.dtype) for part in (self.lora_a, self.lora_b))
            product = dropped @ a @ b
        added = self.scaling * product
        if self.lora_magnitude is None:
            return self.base(x) + added
        plain = self.base.product(x)
        read = plain if self.dropout_key is None else self.base.product(dropped)
        # In float32: near 1, the difference would be lost in bfloat16.
        factor = lifted(self._factor(), x.ndim)
        y = plain + (factor - 1.0).astype(x.dtype) * read + factor.astype(x.dtype) * added
        bias = self.base.bias
        return y if bias is None else y + lifted(bias[...].astype(x.dtype), y.ndim)

    def _factor(self) -> jax.Array:
        """The factor m / ‖V‖, `(..., out)` float32."""
        return self.lora_magnitude[...] / column_lengths(jax.lax.stop_gradient(self._direction()))

    def _direction(self) -> jax.Array:
        """V, `(..., in, out)` float32."""
        delta = jnp.matmul(self.lora_a[...], self.lora_b[...], precision="highest")
        return self.base.full_kernel() + self.scaling * delta

    def _dropped(self, x: jax.Array) -> jax.Array:
        if self.dropout_key is None:
            return x
        key = jax.random.wrap_key_data(self.dropout_key[...], impl="threefry2x32")
        kept = jax.random.bernoulli(key, 1.0 - self.dropout, x.shape)
        return jnp.where(kept, x / (1.0 - self.dropout), jnp.zeros((), x.dtype))

    @property
    def kernel(self) -> nnx.Param:
        """The kernel of a base that holds it in full, as a language head does."""
        return self.base.kernel

    def addition(self, hidden: jax.Array) -> Addition:
        """What the adapter adds to products with the kernel where this is a language head."""
        a = self.lora_a[...].astype(hidden.dtype)
        return self.scaling * (self._dropped(hidden) @ a), self.lora_b[...].T

    def merged(self) -> Linear:
        """The base layer, its kernel now including the adapter; float32 if it was quantised."""
        kernel = self._direction()
        if self.lora_magnitude is not None:
            kernel = kernel * self._factor()[..., None, :]
        return self.base.with_kernel(kernel)


def column_lengths(kernel: jax.Array) -> jax.Array:
    """The lengths of the columns of a kernel `(..., in, out)`, `(..., out)` float32."""
    return jnp.linalg.norm(kernel.astype(jnp.float32), axis=-2)


def draw_a(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform in ±1/√in, `(..., in, r)` float32."""
    bound = shape[-2] ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
