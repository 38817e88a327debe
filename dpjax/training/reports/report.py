"""What every privacy report says of a run's mechanism, randomness and software."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any, NamedTuple

from dpjax_accounting import (
    NON_PRIVATE_WARNING,
    SEED_WARNING,
    AdaptiveClippingDPSGD,
    BandedDPSGD,
    DPSGDSchedule,
    LaplaceDPSGD,
    Mechanism,
    claim,
)

from dpjax.privatize import (
    AdaptiveClipping,
    BandedStrategy,
    GeneratorName,
    NoiseStrategy,
    RunKey,
    describe_sampling,
    step_noise,
)
from dpjax.training.reports.user_sentences import EACH_GRADIENT

_PACKAGES = ("dpjax", "dp-accounting", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
_RUN_KEY_BITS = 256
# It may be published, and does not quote the ledger.
TOTAL_UNKNOWN = (
    "The ledger of the data set gave no total after the last step. All steps of this run were "
    "charged to it before the first step."
)
NEIGHBOURS = {
    "add_or_remove_one": "Neighbouring data sets differ by one record added or removed.",
    "zero_out": "Neighbouring data sets differ by one record that contributes nothing in one of "
    "them. The number of records is public.",
    "replace_one": "Neighbouring data sets differ by one record that is another one in one of "
    "them. The number of records is public.",
}
_GENERATORS = {"threefry": ("Threefry-2x32", 64), "chacha20": ("ChaCha20", 256)}
_DISCRETE_NOISE = (
    "Noise is {distribution} on a grid, drawn exactly from keyed BLAKE2b hashes of the run "
    "key, and added to sums of whole numbers: no rounding of floating-point numbers is in what is "
    "released. That the hashes cannot be told from random bits is assumed. How long a draw takes "
    "depends on what is drawn; attacks that time it are not covered."
)
_COUNT_NOISE = (
    "The count of each step has a discrete Gaussian for noise, drawn exactly from keyed BLAKE2b "
    "hashes of the run key. That the hashes cannot be told from random bits is assumed. How long a "
    "draw takes depends on what is drawn; attacks that time it are not covered."
)
_DRAWS = "Which records were drawn in which step."


def common_assumptions(
    mechanism: Mechanism, generator: GeneratorName, *, is_discrete: bool = False
) -> tuple[str, ...]:
    """Returns what every run of `mechanism` rests on that samples, clips and adds noise here.

    Args:
        mechanism: as planned.
        generator: of the run key.
        is_discrete: whether noise is discrete.
    """
    sampling = describe_sampling(mechanism)
    noise = _continuous_noise(generator)
    if is_discrete:
        is_laplace = isinstance(mechanism, LaplaceDPSGD)
        kind = "a discrete Laplace distribution" if is_laplace else "a discrete Gaussian"
        noise = _DISCRETE_NOISE.format(distribution=kind)
    common: tuple[str, ...] = (sampling.public, sampling.adversary, noise)
    if isinstance(mechanism, AdaptiveClippingDPSGD):
        common += (_COUNT_NOISE,)
    if not isinstance(mechanism, BandedDPSGD):
        return common
    return (
        *common,
        f"Noise is correlated over steps by a strategy matrix of at most {mechanism.bands} bands, "
        f"whose columns are at most {mechanism.column_norm:g} long. A record is in one step of "
        f"any {mechanism.bands} at most.",
    )


def _continuous_noise(generator: GeneratorName) -> str:
    name, bits = _GENERATORS[generator]
    return (
        f"Noise is Gaussian in float32 arithmetic. {name} generators draw it, with fresh "
        f"{bits}-bit keys in each step; that what they draw cannot be told from random bits is "
        "assumed. Attacks on floating-point rounding of the noise are not covered."
    )


def secret_draws(mechanism: Mechanism | None) -> tuple[str, ...]:
    """Returns what must stay secret of the draws; nothing where no ε rests on it."""
    if mechanism is not None and not describe_sampling(mechanism).is_secret:
        return ()
    return (_DRAWS,)


class Summed(NamedTuple):
    """What a step adds up, in the words of a report.

    Attributes:
        what: the summands, a phrase.
        clipped: says that each of them is clipped, a clause.
        added: says that they are added up and given noise, a sentence.
        is_discrete: whether they are whole numbers with discrete noise.

    Example:
        >>> GRADIENTS.what
        'Gradients of the training records'
    """

    what: str
    clipped: str
    added: str
    is_discrete: bool = False


GRADIENTS = Summed(
    "Gradients of the training records",
    EACH_GRADIENT,
    "Their clipped gradients are added up, and noise is added once to the sum.",
)
DIFFERENCES = Summed(
    "Differences of losses of the training records",
    "Each difference of losses is clipped",
    "Clipped differences of losses along random directions are added up, and noise is added once "
    "to the sum: a zeroth-order gradient. The directions depend on no record.",
    is_discrete=True,
)


def describe_gradients(mechanism: Mechanism, summed: Summed = GRADIENTS) -> dict[str, str]:
    """Returns how what a step adds up is paid for, an entry of `data_uses`."""
    return {
        "use": summed.what,
        "status": "budgeted",
        "explanation": f"{summed.clipped}, and noise is added to their sum. ε counts "
        f"{describe_sampling(mechanism).counted}.",
    }


def describe_claim(
    mechanism: Mechanism | None, delta: float | None, *, num_steps: int, steps_completed: int
) -> dict[str, Any]:
    """Returns status, steps, guarantee, mechanism and accountant; without privacy no claim.

    Args:
        mechanism: as planned; None without privacy.
        delta: of the guarantee; None without privacy.
        num_steps: how many were planned.
        steps_completed: how many are done; ε is theirs.
    """
    if mechanism is not None and delta is not None:
        return claim(mechanism, delta, steps_completed=steps_completed)
    return {
        "status": "complete" if steps_completed == num_steps else "unfinished",
        "steps_planned": num_steps,
        "steps_completed": steps_completed,
        "guarantee": None,
        "mechanism": None,
        "accountant": None,
    }


def describe_implementation(
    mechanism: Mechanism | None,
    clip_norms: tuple[float, ...],
    *,
    target_epsilon: float | None,
    delta_is_default: bool,
    noise_strategy: NoiseStrategy | None = None,
    summed: Summed = GRADIENTS,
    adaptive: AdaptiveClipping | None = None,
) -> dict[str, Any] | None:
    """Returns how the mechanism was executed; None without privacy.

    Args:
        mechanism: as planned.
        clip_norms: C in L2 norm, of each segment of a run; one where all have the same.
        target_epsilon: that was asked for; None if a noise multiplier was.
        delta_is_default: whether δ was left to dpjax.
        noise_strategy: of noise that is correlated over steps; None of independent noise.
        summed: what a step adds up.
        adaptive: how the clip norm moves from C on; None where it is constant.
    """
    if mechanism is None:
        return None
    sampling = describe_sampling(mechanism)
    is_same = len(set(clip_norms)) == 1
    return {
        "target_epsilon": target_epsilon,
        "delta_is_default": delta_is_default,
        "clip_norm": clip_norms[0] if is_same else list(clip_norms),
        "noise_standard_deviation": _noise(mechanism, clip_norms[:1] if is_same else clip_norms),
        "gradient_divided_by": sampling.divided_by,
        "sampling": sampling.sentence,
        "gradient_accumulation": "One step is one draw of records. It is computed in microbatches. "
        f"{summed.added}",
        "adaptive_clipping": _adaptation(mechanism, adaptive),
        "noise_correlation": None if noise_strategy is None else _correlation(noise_strategy),
    }


def _adaptation(mechanism: Mechanism, adaptive: AdaptiveClipping | None) -> dict[str, Any] | None:
    """Returns how the clip norm moves, with the noise of the count that it follows."""
    if adaptive is None or not isinstance(mechanism, AdaptiveClippingDPSGD):
        return None
    return {
        "sentence": "Each step also releases how many contributions were not clipped, with "
        "discrete Gaussian noise, and multiplies the clip norm by exp(-learning_rate (share - "
        "target_quantile)), share being that noisy number over the expected batch size. The "
        "mechanism counts both releases. The clip norm and the noise standard deviation stated are "
        "those of the first step; the noise stays in proportion to the clip norm.",
        "target_quantile": adaptive.target_quantile,
        "learning_rate": adaptive.learning_rate,
        "count_stddev": mechanism.count_stddev,
    }


def _correlation(strategy: NoiseStrategy) -> dict[str, Any]:
    """Returns how noise is correlated, with the numbers that make it again."""
    kind = "banded" if isinstance(strategy, BandedStrategy) else "buffered linear"
    return {
        "sentence": "The noise of all steps is the inverse of a strategy matrix times independent "
        "draws with the standard deviation stated. The matrix is lower triangular, made of a "
        f"{kind} Toeplitz matrix whose columns are divided by their lengths.",
        "coefs": None,
        "buf_decay": None,
        "output_scale": None,
    } | {name: list(numbers) for name, numbers in vars(strategy).items()}


def _noise(mechanism: Mechanism, clip_norms: tuple[float, ...]) -> float | list[float]:
    """Returns the standard deviation on the sum; of each segment, if there are several."""
    if isinstance(mechanism, DPSGDSchedule):
        norms = clip_norms * len(mechanism.segments) if len(clip_norms) == 1 else clip_norms
        pairs = zip(mechanism.segments, norms, strict=True)
        return [segment.noise_multiplier * norm for segment, norm in pairs]
    if isinstance(mechanism, BandedDPSGD):
        # Of the draws, before they are correlated.
        noise_multiplier = mechanism.noise_multiplier
    elif isinstance(mechanism, AdaptiveClippingDPSGD):
        noise_multiplier = mechanism.gradient_noise_multiplier
    elif isinstance(mechanism, LaplaceDPSGD):
        noise_multiplier = mechanism.noise_stddev
    else:
        noise_multiplier = step_noise(mechanism).noise_multiplier
    stddevs = [noise_multiplier * norm for norm in clip_norms]
    return stddevs[0] if len(stddevs) == 1 else stddevs


def describe_randomness(
    run_key: RunKey, *, is_discrete: bool = False, mechanism: Mechanism | None = None
) -> dict[str, Any]:
    """Returns where random bits come from; nothing of the key.

    Args:
        run_key: of the run.
        is_discrete: whether noise is discrete.
        mechanism: as planned; Gaussian, if it is not given.
    """
    fixed = run_key.fixed_seed is not None
    name, bits = _GENERATORS[run_key.generator]
    source = f"and four {name} generators of {bits}-bit keys per step for the noise"
    distribution = "Continuous Gaussian: the halved sum of four draws per coordinate."
    if is_discrete:
        source = "and are themselves the random bits of the noise"
        kind = "Laplace" if isinstance(mechanism, LaplaceDPSGD) else "Gaussian"
        distribution = f"Discrete {kind} on a grid: exact, by rejection."
    if isinstance(mechanism, AdaptiveClippingDPSGD):
        source += ", and are themselves the random bits of the noise of counts"
        distribution += " Of counts: discrete Gaussian on a grid, exact, by rejection."
    return {
        "seed_fixed": fixed,
        "run_key_bits": None if fixed else _RUN_KEY_BITS,
        "generators": f"Keyed BLAKE2b hashes of the run key seed Philox for sampling, {source}.",
        "noise_distribution": distribution,
        "noise_dtype": "int32" if is_discrete else "float32",
    }


def describe_versions() -> dict[str, str]:
    """Returns the version of each package that numbers depend on, and of Python."""
    return {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()}


def first_warnings(mechanism: Mechanism | None, run_key: RunKey) -> list[str]:
    """Returns what a reader must know before anything else."""
    if mechanism is None:
        return [NON_PRIVATE_WARNING]
    return [] if run_key.fixed_seed is None else [SEED_WARNING]
