"""Which versions of JAX write programs that can be taken apart here.

The tests have seen the listed ones. Another version has to pass a self-check once: a small program
with everything that the package reads in programs, clipped by the structured strategies and by
computing every gradient.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.privatize.structured.program import UnreadableProgramError

KNOWN_VERSIONS = ((0, 10), (0, 11), (0, 12))


def check_version() -> None:
    """Passes for a version of JAX that the tests have seen, and for one that passes the self-check.

    The check takes a second or two. That it passed is remembered on disk for that version of JAX
    and this source.

    Raises:
        UnreadableProgramError: the self-check failed; says where.
    """
    version = tuple(int(part) for part in jax.__version__.split(".")[:2])
    if version in KNOWN_VERSIONS:
        return
    failure = _failure(jax.__version__)
    if failure is not None:
        raise UnreadableProgramError(
            f"JAX {jax.__version__} is new to dpjax, and the self-check failed: {failure}"
        )


@functools.cache
def _failure(version: str) -> str | None:
    """What went wrong in the self-check; None if nothing did."""
    mark = _mark(version)
    if mark is not None and mark.exists():
        return None
    failure = _self_check_apart()
    if failure is None and mark is not None:
        # A folder that cannot be written to costs the next process a second.
        with contextlib.suppress(OSError):
            mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark.touch()
    return failure


def _self_check_apart() -> str | None:
    """The self-check in a thread of its own.

    The call may come from inside any transformation, mesh or setting of JAX's, all of which belong
    to a thread.
    """
    outcome: list[str | None] = []

    def run() -> None:
        # Whatever happens in there, the strategy that needs no program still works.
        try:
            with jax.default_device(_processor()):
                outcome.append(self_check())
        except Exception as error:
            outcome.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=run, name="dpjax self-check")
    thread.start()
    thread.join()
    return outcome[0]


def _processor() -> jax.Device | None:
    """A CPU, which compiles fastest; None, the default device, where JAX is told to see no CPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _mark(version: str) -> Path | None:
    """The file that says that a version has passed; None where there is no place for it."""
    digest = hashlib.sha256(version.encode())
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        caches = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
        for file in sorted(Path(__file__).parent.parent.rglob("*.py")):
            digest.update(file.read_bytes())
    except (OSError, RuntimeError):
        return None
    return caches / "dpjax" / "jax" / f"{version}-{digest.hexdigest()[:16]}.passed"


def self_check() -> str | None:
    """Compares the structured strategies with `materialize` on one program; what differs, in words.

    The program has loops in both directions, rematerialisation, calls, custom rules, a table that
    is looked up and multiplied with, and weights used in bfloat16.
    """
    # Not at the top: the strategies ask for the version.
    from dpjax.privatize.materialize import materialize
    from dpjax.privatize.rules import FlatClipping
    from dpjax.privatize.structured.strategies import clip_structured

    params, batch = _parameters(), _batch()
    mask = jnp.asarray([True, True, False])
    # Nothing is clipped, so that sums can be compared whatever margin a norm has.
    rule = FlatClipping(1e6)

    def all_ways(params: dict, batch: tuple, mask: jax.Array) -> list[tuple]:
        ways = [materialize(_loss, rule, False)]
        ways += [clip_structured(_loss, rule, False, name) for name in _STRUCTURED]
        found = [clip(params, batch, mask) for clip in ways]
        return [grads | {"norms": rows.norms, "losses": losses} for grads, rows, losses, _ in found]

    lowered = jax.jit(all_ways).lower(params, batch, mask)
    right, *others = jax.device_get(_compile_fast(lowered)(params, batch, mask))
    for name, got in zip(_STRUCTURED, others, strict=True):
        for path, wanted in right.items():
            # What goes through bfloat16 is compared to its precision; so are norms, for its margin.
            tolerance = 0.03 if path in ("half", "norms") else 1e-4
            if not np.allclose(got[path], wanted, atol=tolerance * np.max(np.abs(wanted))):
                return f"strategy {name} and materialize disagree about {path}"
    return None


_STRUCTURED = ("one_backward", "two_backwards")
# Halves the time that a CPU's compiler needs.
_FAST_TO_COMPILE = {
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
    def forwards(h: jax.Array, kernel: jax.Array) -> tuple:
        return h + jax.nn.relu(h @ kernel), jnp.mean(h)

    def backwards(h: jax.Array, shift: jax.Array) -> tuple:
        return jax.jit(lambda h: jnp.tanh(h + shift))(h), None

    h, means = jax.lax.scan(forwards, params["table"][ids], params["layers"])
    h, _ = jax.lax.scan(backwards, h, params["shifts"], reverse=True)
    h = _doubled(h + h.astype(jnp.bfloat16) @ params["half"].astype(jnp.bfloat16))
    return jnp.mean((h @ params["table"].T) ** 2) + jnp.sum(means**2)
