"""What a guarantee rests on, as functions that raise `Violated` where it does not hold.

A property looks at a subject, which `SUBJECTS` makes: a part of the library, compiled when it is
made, so that it is made of whatever the modules hold at that time.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from dpjax_accounting import DPSGD

import dpjax
from dpjax.privatize.randomness import noise
from tests.support.structure_registry import cross_entropy

CLIP_NORM, EXAMPLES, SIZE = 0.3, 4, 20_000
GROUPS = {"table": 0.2, "others": 0.02}
KEY = dpjax.RunKey.from_seed(4)
MECHANISM = DPSGD(num_units=1000, expected_batch_size=8, noise_multiplier=1.7, num_steps=10)

# All four examples of the model take part in most steps, and hold two microbatches of three.
OF_ALL = DPSGD(num_units=4, expected_batch_size=3.9, noise_multiplier=1.7, num_steps=10)
SAMPLER = dpjax.PoissonSampler.for_mechanism(OF_ALL, KEY)


class Violated(AssertionError):
    """A property does not hold."""


def require(holds):
    if not holds:
        raise Violated


def loss(params, example):
    """A tied table, looked up with repeated rows; a Gram form; a formed product; a dense term."""
    h = jnp.tanh(params["table"][example["ids"]] @ params["w"] + params["b"])
    return example["scale"] * cross_entropy(h @ params["table"].T, example["ids"][::-1])


@functools.cache
def model():
    # With this seed the cross terms of the tied table are positive.
    rng = np.random.default_rng(3)
    shapes = {"b": (6,), "table": (11, 6), "w": (6, 6)}
    params = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    ids = jnp.array([[1, 1, 2], [3, 4, 3], [1, 5, 9], [10, 10, 10]])
    return params, {"ids": ids, "scale": jnp.array([0.2, 0.5, 0.01, 3.0])}


def compiled(function):
    """Without the optimisations that take the compiler most of its time."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def flatten(tree):
    return np.concatenate([np.asarray(g, np.float64).ravel() for g in jax.tree.leaves(tree)])


@functools.cache
def gradients():
    """Of every example alone, float64 rows."""
    params, batch = model()
    gradient = jax.jit(jax.grad(loss))
    rows = [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in range(EXAMPLES)]
    return np.stack([flatten(gradient(params, row)) for row in rows])


def equal(got, want):
    return np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


def others(index):
    return np.arange(EXAMPLES) != index


def loop(mask):
    factors = np.minimum(1.0, CLIP_NORM / np.linalg.norm(gradients(), axis=1))
    return (factors * mask) @ gradients()


def clipped(**options):
    """`(batch, mask) -> clipped sum` of the model's parameters, flat; compiled."""
    fn = compiled(dpjax.clipped_grad(loss, **({"clip_norm": CLIP_NORM} | options)))
    return lambda batch, mask: flatten(fn(model()[0], batch, mask).grads)


def is_the_sum_of_a_loop(fn):
    mask = others(0)
    require(equal(fn(model()[1], mask), loop(mask)))


def moves_by_at_most_the_clip_norm(fn):
    whole = fn(model()[1], np.ones(EXAMPLES, bool))
    for i in range(EXAMPLES):
        moved = np.linalg.norm(whole - fn(model()[1], others(i)))
        require(moved <= CLIP_NORM * (1 + 1e-5))


def takes_nothing_of_a_masked_example(fn):
    batch = model()[1]
    for garbage in (7.0, jnp.nan):
        soiled = batch | {"scale": batch["scale"].at[1].set(garbage)}
        require(equal(fn(soiled, others(1)), loop(others(1))))


def takes_nothing_of_an_example_that_is_not_finite(fn):
    batch = model()[1]
    soiled = batch | {"scale": batch["scale"].at[2].set(jnp.inf)}
    require(equal(fn(soiled, np.ones(EXAMPLES, bool)), loop(others(2))))


@dataclasses.dataclass
class Groups:
    """Clips the table and the other parameters apart."""

    def __post_init__(self):
        rule = dpjax.PerGroupClipping(lambda path: "table" if path == "table" else "others", GROUPS)
        self.fn = dpjax.clipped_grad(loss, rule=rule, strategy="materialize")

    @functools.cached_property
    def largest(self):
        """What an example adds that is beyond the clip norm of every group."""
        return compiled(self.fn)(*model(), ~others(3)).grads


def every_group_is_bounded(groups):
    parts = {"table": groups.largest["table"], "others": [groups.largest[n] for n in "bw"]}
    for name, part in parts.items():
        require(np.linalg.norm(flatten(part)) <= GROUPS[name])


def all_groups_together_are_bounded_by_the_clip_norm(groups):
    require(np.linalg.norm(flatten(groups.largest)) <= groups.fn.clip_norm)


def units():
    """`(batch, mask) -> clipped sum` of two units, the first and the last two examples."""
    fn = compiled(
        dpjax.clipped_grad(dpjax.unit_loss(loss), clip_norm=CLIP_NORM, strategy="materialize")
    )

    def of_batch(batch, mask):
        unit = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), (batch, mask))
        return flatten(fn(model()[0], dict(zip(("examples", "mask"), unit, strict=True))).grads)

    return of_batch


def is_the_sum_of_a_loop_over_units(fn):
    mask = others(0)
    of_units = (gradients() * mask[:, None]).reshape(2, 2, -1).sum(axis=1)
    factors = np.minimum(1.0, CLIP_NORM / np.linalg.norm(of_units, axis=1))
    require(equal(fn(model()[1], mask), factors @ of_units))


def one_unit_moves_it_by_at_most_the_clip_norm(fn):
    whole = fn(model()[1], np.ones(EXAMPLES, bool))
    for unit in range(2):
        moved = np.linalg.norm(whole - fn(model()[1], np.arange(EXAMPLES) // 2 != unit))
        require(moved <= CLIP_NORM * (1 + 1e-5))


def release():
    """`step -> (what noise is added to, released)`: the private mean of a sum."""
    total = {"a": jnp.ones(SIZE), "b": jnp.ones(SIZE), "c": jnp.full(2 * SIZE, -9.0)}
    fn = compiled(
        lambda total, keys: noise.noisy_mean(total, keys, mechanism=MECHANISM, clip_norm=CLIP_NORM)
    )
    return lambda step: (total, fn(total, KEY.noise_keys(step)))


def drawn(total, released):
    """The noise, by leaf, if the mean is over the expected batch."""
    size = MECHANISM.expected_batch_size
    return {name: np.asarray(released[name] * size - leaf) for name, leaf in total.items()}


def correlated(x, y):
    return abs(np.corrcoef(x, y)[0, 1]) > 5 / math.sqrt(SIZE)


def noise_has_the_stated_scale(release):
    stddev = MECHANISM.noise_multiplier * CLIP_NORM
    for leaf in drawn(*release(0)).values():
        require(abs(leaf.std() / stddev - 1) < 0.03)


def noise_is_around_the_sum(release):
    for leaf in drawn(*release(0)).values():
        require(abs(leaf.mean()) < 5 * leaf.std() / math.sqrt(SIZE))


def steps_share_no_noise(release):
    first, second = (drawn(*release(step)) for step in (0, 1))
    require(not any(correlated(first[name], second[name]) for name in first))


def leaves_share_no_noise(release):
    leaf = drawn(*release(0))
    for x, y in [("a", "b"), ("a", "c"), ("b", "c")]:
        require(not correlated(leaf[x], leaf[y][:SIZE]))


def noise_has_as_many_values_as_coordinates(release):
    """A short format has few, which show the sum between them."""
    for leaf in drawn(*release(0)).values():
        require(len(np.unique(leaf)) > 0.9 * leaf.size)


@dataclasses.dataclass
class Adaptive:
    """Two releases a step, the count's noise chosen so that the gradient's is twice as large."""

    def __post_init__(self):
        rule = dpjax.AdaptiveClipping(count_stddev=1.7 / math.sqrt(3))
        self.private = dpjax.private_gradient(loss, mechanism=MECHANISM, rule=rule, run_key=KEY)
        self.release = compiled(jax.vmap(self._release, (None, 0)))

    def _release(self, noise_keys, count_noise):
        zeros, count, clip_norm = {"a": jnp.zeros(SIZE)}, jnp.int32(0), jnp.float32(1)
        return self.private._make_release()(zeros, count, clip_norm, noise_keys, count_noise)

    @functools.cached_property
    def released(self):
        """One noisy mean, and the clip norms that follow by as many draws of the count's noise."""
        multiplier, grid = self.private._count_noise
        drawn = grid.draw(multiplier, KEY.quantile_blocks(0), 500)
        mean, following = self.release(KEY.noise_keys(0), drawn)
        return mean["a"][0], following


def count_has_noise(adaptive):
    # C' = C·exp(-η(b̃ - γ)), b̃ = ½ + noise/B, solved for the noise.
    log = np.log(adaptive.released[1])
    counts = -log / adaptive.private.rule.learning_rate * MECHANISM.expected_batch_size
    require(abs(counts.std() / adaptive.private.rule.count_stddev - 1) < 0.2)


def gradient_has_the_larger_noise(adaptive):
    stddev = np.std(adaptive.released[0]) * MECHANISM.expected_batch_size
    require(abs(stddev / (2 * MECHANISM.noise_multiplier) - 1) < 0.03)


def both_releases_draw_from_streams_of_their_own(_):
    streams = [next(blocks(3)) for blocks in (KEY.noise_blocks, KEY.quantile_blocks)]
    require(streams[0] != streams[1])


class Loop:
    """One step at a time of a loop with `private_gradient`, on the model's parameters."""

    def __init__(self):
        self.private = dpjax.private_gradient(
            loss, mechanism=OF_ALL, clip_norm=CLIP_NORM, run_key=KEY, strategy="materialize"
        )

    def total(self, step, num_microbatches=None):
        params, batch = model()
        total = self.private.zeros(params, step)
        pieces = list(self.private.batches(step, microbatch_size=3))
        for rows, mask in pieces[:num_microbatches]:
            microbatch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], batch)
            total = self.private.add(total, params, microbatch, mask)
        return total

    def is_refused(self, total, step):
        try:
            self.private.release(total, step)
        except ValueError:
            return True
        return False

    def noise(self, step):
        total = self.total(step)
        grads = flatten(total.grads)
        return flatten(self.private.release(total, step)) * OF_ALL.expected_batch_size - grads


def loop_adds_up_the_batch_of_the_sampler(make):
    steps = make()
    for step in (0, 1):
        mask = np.isin(np.arange(EXAMPLES), SAMPLER.indices(step))
        require(equal(flatten(steps.total(step).grads), loop(mask)))


def loop_adds_noise_in_units_of_the_clip_norm(make):
    steps = make()
    stddev = OF_ALL.noise_multiplier * CLIP_NORM
    require(abs(np.std(steps.noise(0)) / stddev - 1) < 0.3)


def loop_draws_new_noise_in_every_step(make):
    steps = make()
    first, second = steps.noise(0), steps.noise(1)
    require(abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(first.size))


def loop_releases_a_step_once(make):
    steps = make()
    require(not steps.is_refused(steps.total(0), 0))
    require(steps.is_refused(steps.total(0), 0))


def loop_refuses_a_total_without_some_of_the_batch(make):
    steps = make()
    require(steps.is_refused(steps.total(0, num_microbatches=1), 0))


def loop_refuses_a_total_of_another_step(make):
    steps = make()
    require(len(SAMPLER.indices(0)) == len(SAMPLER.indices(1)))
    require(steps.is_refused(steps.total(0), 1))


def loop_refuses_a_total_of_another_loop(make):
    require(make().is_refused(make().total(0), 0))


_OF_A_SUM = (
    is_the_sum_of_a_loop,
    moves_by_at_most_the_clip_norm,
    takes_nothing_of_a_masked_example,
    takes_nothing_of_an_example_that_is_not_finite,
)
_CLIPPED = {
    "materialize": {"strategy": "materialize"},
    "one_backward": {"strategy": "one_backward"},
    "two_backwards": {"strategy": "two_backwards"},
    "microbatches": {"strategy": "materialize", "microbatch_size": 3},
}
SUBJECTS: dict[str, tuple[Callable, tuple[Callable, ...]]] = {
    **{name: (functools.partial(clipped, **opts), _OF_A_SUM) for name, opts in _CLIPPED.items()},
    "groups": (
        Groups,
        (every_group_is_bounded, all_groups_together_are_bounded_by_the_clip_norm),
    ),
    "units": (
        units,
        (is_the_sum_of_a_loop_over_units, one_unit_moves_it_by_at_most_the_clip_norm),
    ),
    "release": (
        release,
        (
            noise_has_the_stated_scale,
            noise_is_around_the_sum,
            steps_share_no_noise,
            leaves_share_no_noise,
            noise_has_as_many_values_as_coordinates,
        ),
    ),
    "loop": (
        lambda: Loop,
        (
            loop_adds_up_the_batch_of_the_sampler,
            loop_adds_noise_in_units_of_the_clip_norm,
            loop_draws_new_noise_in_every_step,
            loop_releases_a_step_once,
            loop_refuses_a_total_without_some_of_the_batch,
            loop_refuses_a_total_of_another_step,
            loop_refuses_a_total_of_another_loop,
        ),
    ),
    "adaptive": (
        Adaptive,
        (
            count_has_noise,
            gradient_has_the_larger_noise,
            both_releases_draw_from_streams_of_their_own,
        ),
    ),
}
