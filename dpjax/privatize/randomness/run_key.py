"""The secret of a run, and the independent random streams derived from it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.basics.option_checks import check_choice
from dpjax.privatize.randomness import chacha20
from dpjax.privatize.randomness.noise import NUM_DRAWS

_SECRET_BYTES = 32
GeneratorName = Literal["threefry", "chacha20"]
"""What draws Gaussian noise from the keys of a step."""


@dataclasses.dataclass(frozen=True)
class RunKey:
    """256 secret bits: sampling, noise, model initialisation and audit draw separate streams.

    Every stream is a keyed BLAKE2b hash of (purpose, step): whoever sees one stream learns
    nothing of another, and each is a pure function of (run key, step), so that a resumed run
    repeats its draws instead of drawing new noise for the same sum. `jax.random.key(int)` is not
    used: it keeps 32 bits, which a search recovers.

    The bits per generator: sampling uses Philox with a 128-bit key; noise uses four Threefry
    generators of 64-bit keys each, or four ChaCha20 generators of 256-bit keys each, fresh at every
    step. Discrete noise reads the hashes themselves.

    Attributes:
        secret: 32 bytes.
        fixed_seed: the seed of a repeatable key; None of a key from the operating system.
        generator: what draws Gaussian noise.

    Example:
        >>> run_key = RunKey.from_os_entropy()
        >>> run_key.noise_keys(step=3).shape, run_key.sampling_rng(step=3).random() < 1
        ((4,), True)
        >>> run_key
        RunKey(fixed_seed=None, generator='threefry')
    """

    secret: bytes = dataclasses.field(repr=False)
    fixed_seed: int | None = None
    generator: GeneratorName = "threefry"

    def __post_init__(self) -> None:
        if len(self.secret) != _SECRET_BYTES:
            raise ValueError(f"a run key has {_SECRET_BYTES} bytes, got {len(self.secret)}")
        check_choice("generator", self.generator, get_args(GeneratorName))

    @classmethod
    def from_os_entropy(cls, *, generator: GeneratorName = "threefry") -> RunKey:
        """A fresh key from the operating system: two runs never share a stream.

        Args:
            generator: draws Gaussian noise: Threefry-2x32, or ChaCha20 (RFC 8439), a cipher.
        """
        return cls(secrets.token_bytes(_SECRET_BYTES), generator=generator)

    @classmethod
    def from_seed(cls, seed: int, *, generator: GeneratorName = "threefry") -> RunKey:
        """A repeatable key, for tests only: whoever guesses the seed can subtract the noise.

        Args:
            seed: at least 0, of 64 bits at most.
            generator: as for `from_os_entropy`.

        Raises:
            ValueError: the seed is negative or has more than 64 bits.
        """
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be in [0, 2**64), got {seed}")
        secret = hashlib.blake2b(seed.to_bytes(8), digest_size=_SECRET_BYTES, person=b"dpjax seed")
        return cls(secret.digest(), fixed_seed=seed, generator=generator)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> RunKey:
        """Returns the key that `to_dict` described."""
        return cls(bytes.fromhex(fields["secret"]), fields["fixed_seed"], fields["generator"])

    def to_dict(self) -> dict[str, Any]:
        """Returns the secret and the rest, ready for JSON: for private files alone.

        Example:
            >>> run_key = RunKey.from_seed(1)
            >>> RunKey.from_dict(run_key.to_dict()) == run_key
            True
        """
        return {
            "secret": self.secret.hex(),
            "fixed_seed": self.fixed_seed,
            "generator": self.generator,
        }

    def sampling_rng(self, step: int) -> np.random.Generator:
        """The generator that decides which units take part in `step`."""
        key = int.from_bytes(self._derive("sampling", step, 16))
        return np.random.Generator(np.random.Philox(key=key))

    def epoch_rng(self, name: str, epoch: int) -> np.random.Generator:
        """The generator of what is drawn once for all steps of `epoch`.

        Args:
            name: what is drawn, such as "shuffle"; another name gives an independent stream.
            epoch: counted from 0.
        """
        key = int.from_bytes(self._derive(f"epoch/{name}", epoch, 16))
        return np.random.Generator(np.random.Philox(key=key))

    def unit_rng(self, step: int, unit: int) -> np.random.Generator:
        """The generator of what one unit draws for itself in `step`, such as which of its records.

        Args:
            step: counted from 0.
            unit: its number, at least 0; another one gives an independent stream.
        """
        key = int.from_bytes(self._derive("within unit", step, 16))
        # A generator counts up from here: 2**128 draws would reach the next unit.
        return np.random.Generator(np.random.Philox(key=key, counter=unit << 128))

    def noise_keys(self, step: int) -> jax.Array:
        """`(4,)` typed JAX keys of the run's generator for the Gaussian noise of `step`."""
        if self.generator == "threefry":
            return _threefry_keys(self._derive("noise", step, 8 * NUM_DRAWS))
        keys = [self._derive(f"noise/{draw}", step, 32) for draw in range(NUM_DRAWS)]
        words = np.frombuffer(b"".join(keys), "<u4").astype(np.uint32).reshape(NUM_DRAWS, -1)
        return jax.random.wrap_key_data(jnp.asarray(words), impl=chacha20.implementation())

    def noise_blocks(self, step: int) -> Iterator[bytes]:
        """Endless secret bytes for the discrete noise of `step`, 64 at a time."""
        return self._blocks("discrete noise", step)

    def quantile_blocks(self, step: int) -> Iterator[bytes]:
        """As `noise_blocks`, for the noise of the count that `AdaptiveClipping` releases."""
        return self._blocks("quantile", step)

    def direction_key(self, step: int) -> jax.Array:
        """One typed JAX key for the directions of `step`, which no record influences."""
        return _threefry_keys(self._derive("directions", step, 8))[0]

    def rounding_key(self, step: int) -> jax.Array:
        """One typed JAX key for how parameters are rounded before `step`."""
        return _threefry_keys(self._derive("rounding", step, 8))[0]

    def dropout_key(self, step: int) -> jax.Array:
        """One typed JAX key for what the model leaves out at random in `step`."""
        return _threefry_keys(self._derive("dropout", step, 8))[0]

    def fingerprint(self) -> str:
        """32 hexadecimal digits that tell this key from others and reveal nothing of it."""
        return self._derive("fingerprint", 0, 16).hex()

    def model_key(self, name: str) -> jax.Array:
        """One typed JAX key for a part of the model's initialisation, such as "head" or "lora"."""
        return _threefry_keys(self._derive(f"model/{name}", 0, 8))[0]

    def audit_bytes(self, name: str, size: int) -> bytes:
        """Secret bytes for one thing of an audit, such as the coin of one canary.

        Args:
            name: what they are for; another name gives an independent stream.
            size: how many bytes, 1 to 64.

        Example:
            >>> run_key = RunKey.from_seed(1)
            >>> run_key.audit_bytes("coin/a", 2) == run_key.audit_bytes("coin/b", 2)
            False
        """
        return self._derive(f"audit/{name}", 0, size)

    def for_instrument(self, name: str) -> RunKey:
        """Returns the key of a model that an audit trains, with the same generator.

        Args:
            name: of the model; another name gives an independent key.

        Example:
            >>> run_key = RunKey.from_seed(1)
            >>> run_key.for_instrument("a").secret == run_key.for_instrument("b").secret
            False
        """
        return RunKey(self.audit_bytes(name, _SECRET_BYTES), generator=self.generator)

    def _blocks(self, purpose: str, step: int) -> Iterator[bytes]:
        return (self._derive(f"{purpose}/{block}", step, 64) for block in itertools.count())

    def _derive(self, purpose: str, step: int, size: int) -> bytes:
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        message = step.to_bytes(8) + purpose.encode()
        return hashlib.blake2b(
            message, digest_size=size, key=self.secret, person=b"dpjax stream"
        ).digest()


def _threefry_keys(data: bytes) -> jax.Array:
    words = np.frombuffer(data, dtype=">u4").astype(np.uint32).reshape(-1, 2)
    return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")
