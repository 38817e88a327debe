"""Bugs of the kinds that happen in private training are planted, and the properties notice them.

A property that holds for broken code too would show nothing.
"""

import dataclasses
import functools
import pkgutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from tests.support import properties
from tests.support.properties import SUBJECTS, Violated

pytestmark = pytest.mark.slow

STRATEGIES = ("materialize", "one_backward", "two_backwards")
SCALE = ("materialize.scale", "structured.clipped_sums.scale")
BUGS = {}


@dataclasses.dataclass(frozen=True)
class Bug:
    """`make(original)` takes the place of what `targets` name in `dpjax.privatize`."""

    targets: tuple[str, ...]
    make: Callable
    subjects: tuple[str, ...]
    violates: tuple[Callable, ...]


def bug(*targets, subjects, violates):
    def register(make):
        BUGS[make.__name__] = Bug(targets, make, subjects, violates)
        return make

    return register


# The rules are the same for all strategies: one is enough.
rules = functools.partial(bug, subjects=("materialize",))
LOOP = properties.is_the_sum_of_a_loop
SENSITIVITY = properties.moves_by_at_most_the_clip_norm
MASKED = properties.takes_nothing_of_a_masked_example
NOT_FINITE = properties.takes_nothing_of_an_example_that_is_not_finite


@rules("rules.clipping_rules._shrink_to", violates=(LOOP, SENSITIVITY))
def the_factor_is_the_larger_of_one_and_the_ratio(_):
    return lambda bound, norms: jnp.maximum(1.0, bound / norms)


@rules("rules.clipping_rules._together", violates=(LOOP, SENSITIVITY))
def the_norm_misses_a_leaf(original):
    return lambda norms, size: original(norms[:-1] or norms, size)


@bug("materialize.dense_norm", subjects=("materialize",), violates=(LOOP, SENSITIVITY))
def a_squared_norm_is_used_as_the_norm(original):
    return lambda x: original(x) ** 2


@bug("structured.norms.contractions.root", subjects=("one_backward",), violates=(LOOP,))
def a_squared_gram_form_is_used_as_the_norm(_):
    return lambda square: square


@bug("structured.norms.norm._clusters", subjects=("one_backward",), violates=(LOOP, SENSITIVITY))
def the_norm_of_a_tied_weight_lacks_cross_terms(_):
    return lambda boxes: [[index] for index in range(len(boxes))]


@bug(
    "structured.norms.norm._sums_by_row", subjects=("two_backwards",), violates=(LOOP, SENSITIVITY)
)
def the_norm_of_a_table_takes_repeated_rows_apart(_):
    return lambda rows: rows.updates.astype(jnp.float32)


@bug(*SCALE, subjects=("two_backwards",), violates=(LOOP, SENSITIVITY))
def factors_go_to_the_next_example(original):
    def scale(*args):
        factors, rows = original(*args)
        return jnp.roll(factors, 1, axis=0), rows

    return scale


@bug(*SCALE, subjects=STRATEGIES, violates=(LOOP, MASKED))
def the_mask_is_ignored(original):
    return lambda rule, norms, groups, mask: original(rule, norms, groups, jnp.ones_like(mask))


@bug(*SCALE, subjects=("materialize", "two_backwards"), violates=(NOT_FINITE,))
def a_norm_that_is_not_finite_counts_as_zero(original):
    return lambda rule, norms, *rest: original(rule, [jnp.nan_to_num(n) for n in norms], *rest)


@bug("materialize._weighted_sum", subjects=("materialize",), violates=(MASKED, NOT_FINITE))
def rows_left_out_are_scaled_by_zero(_):
    return lambda factors, per_example: jnp.tensordot(factors, per_example, axes=1)


@bug("structured.clipped_sums._finite", subjects=("one_backward",), violates=(MASKED, NOT_FINITE))
def kept_pieces_left_out_are_scaled_by_zero(_):
    return lambda pieces, depths, norms: pieces


@bug("structured.norms.sums.without", subjects=("two_backwards",), violates=(MASKED, NOT_FINITE))
def examples_left_out_are_scaled_by_zero(_):
    return lambda left_out, arrays: arrays


@bug("clipping.strategy_named", subjects=("materialize", "microbatches"), violates=(LOOP,))
def the_batch_is_clipped_as_one(original):
    """With microbatches, each of them."""

    def strategy(loss_fn, rule, has_aux, room, name):
        def of_all(params, batch):
            rows, mask = batch
            return jnp.sum(jnp.where(mask, jax.vmap(loss_fn, (None, 0))(params, rows), 0.0))

        def clip(params, batch, mask):
            one = jax.tree.map(lambda x: x[None], (batch, mask))
            grads, *row = original(name)(of_all, rule, has_aux)(params, one, jnp.ones(1, bool))
            return grads, *jax.tree.map(lambda x: jnp.repeat(x, mask.size, axis=0), row)

        return clip

    return lambda name: functools.partial(strategy, name=name)


@bug("microbatch.run", subjects=("microbatches",), violates=(LOOP, MASKED))
def rows_that_the_last_microbatch_sees_again_count_twice(original):
    def run(clip, *args):
        return original(lambda p, rows, mask: clip(p, rows, jnp.ones_like(mask)), *args)

    return run


@bug(
    "rules.clipping_rules.PerGroupClipping.clip_norm",
    subjects=("groups",),
    violates=(properties.all_groups_together_are_bounded_by_the_clip_norm,),
)
def the_clip_norm_is_that_of_the_largest_group(_):
    return property(lambda rule: max(rule.clip_norms.values()))


@bug(
    "rules.clipping_rules.PerGroupClipping.leaf_groups",
    subjects=("groups",),
    violates=(properties.every_group_is_bounded,),
)
def all_parameters_are_in_the_first_group(_):
    return lambda rule, paths: (0,) * len(paths)


@bug(
    "clipping.strategy_named",
    subjects=("units",),
    violates=(
        properties.is_the_sum_of_a_loop_over_units,
        properties.one_unit_moves_it_by_at_most_the_clip_norm,
    ),
)
def every_example_of_a_unit_is_clipped_by_itself(original):
    def strategy(*args, name):
        def clip(params, batch, mask):
            apart = jax.tree.map(
                lambda x: x.reshape(x.shape[0] * x.shape[1], 1, *x.shape[2:]), batch
            )
            return original(name)(*args)(params, apart, jnp.repeat(mask, batch["mask"].shape[1]))

        return clip

    return lambda name: functools.partial(strategy, name=name)


@bug(
    "rules.unit_loss._checked",
    subjects=("units",),
    violates=(properties.is_the_sum_of_a_loop_over_units,),
)
def the_mask_within_a_unit_is_ignored(original):
    def checked(unit):
        examples, mask = original(unit)
        return examples, jnp.ones_like(mask)

    return checked


noise = functools.partial(bug, subjects=("release",))


@noise("randomness.noise._standard_normal", violates=(properties.noise_has_the_stated_scale,))
def the_noise_is_halved(original):
    return lambda keys, shape: original(keys, shape) / 2


@noise(
    "randomness.noise._standard_normal",
    violates=(properties.noise_has_as_many_values_as_coordinates,),
)
def the_noise_is_rounded_to_bfloat16(original):
    return lambda keys, shape: original(keys, shape).astype(jnp.bfloat16).astype(jnp.float32)


@noise("randomness.noise._standard_normal", violates=(properties.leaves_share_no_noise,))
def leaves_of_a_shape_share_their_noise(original):
    return lambda keys, shape: jnp.broadcast_to(original(keys, (1, *shape[1:])), shape)


@noise("randomness.noise.jax.random.fold_in", violates=(properties.leaves_share_no_noise,))
def leaves_of_every_shape_draw_from_the_same_key(_):
    return lambda key, number: key


@noise("randomness.run_key.RunKey._derive", violates=(properties.steps_share_no_noise,))
def the_key_is_used_in_every_step(original):
    return lambda key, purpose, step, size: original(key, purpose, 0, size)


@noise("randomness.noise.noisy_mean", violates=(properties.noise_has_the_stated_scale,))
def the_noise_is_not_in_units_of_the_clip_norm(original):
    return lambda *args, mechanism, clip_norm: original(*args, mechanism=mechanism, clip_norm=1.0)


@noise(
    "randomness.noise.noisy_mean",
    violates=(properties.noise_has_the_stated_scale, properties.noise_is_around_the_sum),
)
def the_mean_is_over_the_examples_that_took_part(original):
    def noisy_mean(*args, mechanism, clip_norm):
        realised = dataclasses.replace(mechanism, expected_batch_size=5)
        return original(*args, mechanism=realised, clip_norm=clip_norm)

    return noisy_mean


adaptive = functools.partial(bug, subjects=("adaptive",))


@adaptive("randomness.discrete.noise.discrete_gaussian", violates=(properties.count_has_noise,))
def the_count_is_released_without_noise(_):
    return lambda bits, variance: 0


@adaptive(
    "rules.adaptive_clipping.gradient_noise_multiplier",
    violates=(properties.gradient_has_the_larger_noise,),
)
def the_count_costs_nothing(_):
    return lambda noise_multiplier, count_stddev: noise_multiplier


@adaptive(
    "randomness.run_key.RunKey._derive",
    violates=(properties.both_releases_draw_from_streams_of_their_own,),
)
def all_purposes_share_one_stream(original):
    # Its blocks differ: a sampler would not end on a stream that repeats itself.
    return lambda key, purpose, step, size: original(key, purpose.partition("/")[2], step, size)


steps = functools.partial(bug, subjects=("loop",))


@steps("steps.total.StepTotal.plus", violates=(properties.loop_adds_up_the_batch_of_the_sampler,))
def a_total_forgets_the_microbatches_before(original):
    def plus(total, clipped, mask):
        return dataclasses.replace(original(total, clipped, mask), grads=clipped.grads)

    return plus


@steps(
    "steps.private_steps.PrivateSteps._drawn_units",
    violates=(properties.loop_adds_up_the_batch_of_the_sampler,),
)
def every_step_draws_the_batch_of_the_first(original):
    return lambda private, step: original(private, 0)[:2]


@steps(
    "randomness.source.noisy_mean",
    violates=(properties.loop_adds_noise_in_units_of_the_clip_norm,),
)
def noise_is_added_for_half_the_clip_norm(original):
    return lambda *args, mechanism, clip_norm: original(
        *args, mechanism=mechanism, clip_norm=clip_norm / 2
    )


@steps(
    "randomness.run_key.RunKey.noise_keys",
    violates=(properties.loop_draws_new_noise_in_every_step,),
)
def the_noise_is_that_of_the_first_step(original):
    return lambda key, step: original(key, 0)


@steps(
    "steps.private_steps.PrivateSteps._approve", violates=(properties.loop_releases_a_step_once,)
)
def a_released_step_is_forgotten(original):
    def approve(private, total, step):
        private._released_steps.clear()
        return original(private, total, step)

    return approve


@steps("steps.total._number_of", violates=(properties.loop_releases_a_step_once,))
def masked_rows_count_as_records(_):
    return lambda flags: jnp.int32(flags.size)


@steps(
    "steps.private_steps.PrivateSteps._approve",
    violates=(properties.loop_refuses_a_total_without_some_of_the_batch,),
)
def records_are_not_counted(original):
    def approve(private, total, step):
        drawn = jnp.int32(len(private._drawn_units(step)))
        return original(private, dataclasses.replace(total, num_records=drawn), step)

    return approve


@steps(
    "steps.private_steps.PrivateSteps._approve",
    violates=(properties.loop_refuses_a_total_of_another_step,),
)
def a_total_may_be_of_any_step(original):
    return lambda private, total, step: original(
        private, dataclasses.replace(total, step=jnp.int32(step)), step
    )


@steps(
    "steps.private_steps.PrivateSteps._check_mine",
    violates=(properties.loop_refuses_a_total_of_another_loop,),
)
def a_total_may_be_of_any_private_gradient(_):
    return lambda private, total: None


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_property_holds(name):
    make, holds = SUBJECTS[name]
    subject = make()
    for check in holds:
        check(subject)


@pytest.mark.parametrize(
    ("bug", "subject"),
    [(name, subject) for name, planted in BUGS.items() for subject in planted.subjects],
)
def test_a_planted_bug_is_noticed(bug, subject, monkeypatch):
    planted = BUGS[bug]
    for target in planted.targets:
        path = f"dpjax.privatize.{target}"
        monkeypatch.setattr(path, planted.make(pkgutil.resolve_name(path)))
    make, holds = SUBJECTS[subject]
    assert set(planted.violates) <= set(holds)
    broken = make()
    for check in planted.violates:
        with pytest.raises(Violated):
            check(broken)


def test_every_property_notices_a_bug():
    noticed = {check for planted in BUGS.values() for check in planted.violates}
    assert noticed == {check for _, holds in SUBJECTS.values() for check in holds}
