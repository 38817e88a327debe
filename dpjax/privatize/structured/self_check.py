"""A small program with everything that this package reads in programs, to try a new JAX with.

It has loops in both directions, rematerialisation, calls, custom rules, a table that is looked up
and multiplied with, and weights used in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.privatize.rules.clipping_rules import FlatClipping

MakeClip = Callable[..., Callable[..., tuple[Any, ...]]]


def compare_strategies(reference: MakeClip, structured: Mapping[str, MakeClip]) -> str | None:
    """Compares strategies with a reference on one program; says in words what differs, or None.

    Args:
        reference: `(loss_fn, rule, has_aux) -> clip` that computes every gradient.
        structured: strategies of the same form, by name.
    """
    params, batch = _parameters(), _batch()
    mask = jnp.asarray([True, True, False])
    # Nothing is clipped, so that sums can be compared whatever margin a norm has.
    rule = FlatClipping(1e6)

    def all_ways(
        params: dict[str, Any], batch: tuple[Any, ...], mask: jax.Array
    ) -> list[tuple[Any, ...]]:
        makers = (reference, *structured.values())
        answers = [make(_loss, rule, False)(params, batch, mask) for make in makers]
        return [
            grads | {"norms": rows.norms, "losses": losses} for grads, rows, losses, _ in answers
        ]

    lowered = jax.jit(all_ways).lower(params, batch, mask)
    right, *others = jax.device_get(_compile_fast(lowered)(params, batch, mask))
    for name, answer in zip(structured, others, strict=True):
        for path, wanted in right.items():
            # What goes through bfloat16 is compared to its precision; so are norms, for its margin.
            tolerance = 0.03 if path in ("half", "norms") else 1e-4
            if not np.allclose(answer[path], wanted, atol=tolerance * np.max(np.abs(wanted))):
                return f"strategy {name} and materialize disagree about {path}"
    return None


# Halves the time that a CPU's compiler needs.
_FAST_TO_COMPILE: Any = {
    "xla_llvm_disable_expensive_passes": True,
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


def _compile_fast(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles with options that save time, or without where this version does not know them."""
    try:
        return lowered.compile(compiler_options=_FAST_TO_COMPILE)
    except jax.errors.JaxRuntimeError:
        return lowered.compile()


def _parameters() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    shapes = {"table": (9, 6), "layers": (2, 6, 6), "shifts": (2, 6), "half": (6, 6)}
    return {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }


def _batch() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).integers(0, 9, (3, 5)), jnp.int32)


@jax.custom_vjp
def _doubled(x: jax.Array) -> jax.Array:
    return 2.0 * x


_doubled.defvjp(lambda x: (2.0 * x, None), lambda _, g: (2.0 * g,))


def _loss(params: dict[str, jax.Array], ids: jax.Array) -> jax.Array:
    @jax.checkpoint
    def forwards(h: jax.Array, kernel: jax.Array) -> tuple[Any, ...]:
        return h + jax.nn.relu(h @ kernel), jnp.mean(h)

    def backwards(h: jax.Array, shift: jax.Array) -> tuple[Any, ...]:
        return jax.jit(lambda h: jnp.tanh(h + shift))(h), None

    h, means = jax.lax.scan(forwards, params["table"][ids], params["layers"])
    h, _ = jax.lax.scan(backwards, h, params["shifts"], reverse=True)
    h = _doubled(h + h.astype(jnp.bfloat16) @ params["half"].astype(jnp.bfloat16))
    return jnp.mean((h @ params["table"].T) ** 2) + jnp.sum(means**2)
