"""What would cost privacy is refused: a step twice, another total, a skipped microbatch."""

import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from dpjax import AutomaticClipping, FlatClipping, PerGroupClipping, RunKey
from tests.support.private_loop import (
    CLIP_NORM,
    MECHANISM,
    SIZE,
    make,
    make_params,
    take,
    total_of,
)


class TestMisuse:
    """Everything that would void the guarantee, and that can be seen, is refused."""

    @pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, pickle.dumps])
    @pytest.mark.parametrize("rule", [{}, {"rule": dpjax.AdaptiveClipping(count_stddev=9.0)}])
    def test_no_copy_releases_the_same_steps(self, copier, rule):
        private = dpjax.private_gradient(
            jnp.vdot,
            mechanism=MECHANISM,
            run_key=RunKey.from_seed(1),
            **(rule or {"clip_norm": CLIP_NORM}),
        )
        with pytest.raises(TypeError, match=r"PrivateGradient cannot be copied or pickled"):
            copier(private)

    def test_a_step_is_released_once(self):
        private = make()
        private.release(total_of(private), 0)
        for params in (make_params(), jax.tree.map(lambda leaf: leaf + 1, make_params())):
            with pytest.raises(ValueError, match=r"step 0 has been released already.*fresh RunKey"):
                private.release(total_of(private, 0, params), 0)

    def test_a_refused_release_leaves_the_step_open(self):
        private = make()
        with pytest.raises(ValueError, match="records"):
            private.release(total_of(private, skip=1), 0)
        private.release(total_of(private), 0)

    @pytest.mark.parametrize("skip", [1, 100])
    def test_a_skipped_add(self, skip):
        private = make()
        drawn = len(private._drawn_units(0))
        with pytest.raises(ValueError, match=rf"records, the batch of step 0 has {drawn}"):
            private.release(total_of(private, skip=skip), 0)

    def test_an_add_too_many_or_without_the_mask(self):
        private, params = make(), make_params()
        total = total_of(private)
        ((rows, mask), *_, (_, last_mask)) = private.batches(0, microbatch_size=SIZE)
        assert not last_mask.all()
        total = private.add(total, params, take(rows), mask)
        with pytest.raises(ValueError, match="Add every microbatch"):
            private.release(total, 0)
        total = private.zeros(params, 0)
        for rows, mask in private.batches(0, microbatch_size=SIZE):
            total = private.add(total, params, take(rows), np.ones_like(mask))
        with pytest.raises(ValueError, match="with its mask"):
            private.release(total, 0)

    def test_a_total_of_another_step(self):
        private = make()
        with pytest.raises(ValueError, match=r"total was made for step 0, got step 1"):
            private.release(total_of(private, 0), 1)

    @pytest.mark.parametrize("step", [-1, 5, 10**6])
    def test_a_step_that_is_not_accounted_for(self, step):
        private, params = make(), make_params()
        for use in (
            lambda: private.zeros(params, step),
            lambda: private.batches(step, microbatch_size=SIZE),
            lambda: private.release(total_of(private), step),
        ):
            with pytest.raises(ValueError, match=r"step must be in range\(5\)"):
                use()

    @pytest.mark.parametrize("step", [True, 1.0, None])
    def test_a_step_that_is_no_integer(self, step):
        with pytest.raises(TypeError, match="integer"):
            make().zeros(make_params(), step)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"clip_norm": 0.6},
            {"rule": AutomaticClipping(CLIP_NORM)},
            {"run_key": RunKey.from_seed(4)},
            {"mechanism": dataclasses.replace(MECHANISM, noise_multiplier=0.1)},
        ],
        ids=["equal", "clip_norm", "rule", "run_key", "mechanism"],
    )
    def test_a_total_of_another_object(self, options):
        private, other = make(), make(**options)
        ((rows, mask), *_) = private.batches(0, microbatch_size=SIZE)
        for use in (
            lambda total: private.release(total, 0),
            lambda total: private.add(total, make_params(), take(rows), mask),
        ):
            with pytest.raises(ValueError, match="belongs to another private gradient"):
                use(total_of(other))

    def test_a_total_of_nobody(self):
        private, params = make(), make_params()
        with pytest.raises(ValueError, match="belongs to another"):
            private.release(dpjax.StepTotal.zeros(params), 0)
        for total in (params, None):
            with pytest.raises(TypeError, match="total must come from zeros and add, got"):
                private.release(total, 0)

    @pytest.mark.parametrize(
        "change",
        [lambda p: p | {"c": jnp.zeros(2)}, lambda p: {"w": p["w"]}, lambda p: p | {"b": p["w"]}],
    )
    def test_a_total_of_other_parameters(self, change):
        private = make(lambda params, example: jnp.sum(params["w"]) * example["x"][0])
        ((rows, mask), *_) = private.batches(0, microbatch_size=SIZE)
        for _ in range(2):
            total = private.zeros(make_params(), 0)
            with pytest.raises(ValueError, match=r"total was made for other parameters: params\["):
                private.add(total, change(make_params()), take(rows), mask)

    def test_release_cannot_be_traced(self):
        private = make()
        total = total_of(private)
        with pytest.raises(TypeError, match=r"outside jax\.jit; release_and_update"):
            jax.jit(lambda total: private.release(total, 0))(total)
        private.release(total, 0)

    def test_the_clip_norm_is_a_constant(self):
        with pytest.raises(TypeError, match="the clip norm must be a constant"):
            jax.jit(lambda c: make(clip_norm=c).zeros(make_params(), 0).grads)(0.3)
        # A rule keeps the clip norms that it was given.
        clip_norms = {"w": 0.2, "b": 0.1}
        private = make(rule=PerGroupClipping(lambda path: path, clip_norms))
        clip_norms["w"] = 100.0
        assert private.rule.clip_norm == pytest.approx(np.hypot(0.2, 0.1))

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"clip_norm": 1.0, "rule": FlatClipping(1.0)}, TypeError, "either clip_norm or rule"),
            ({"rule": None}, TypeError, "either clip_norm or rule"),
            ({"rule": 1.0}, TypeError, "rule must be a clipping rule"),
            ({"clip_norm": 0.0}, ValueError, "clip_norm must be positive"),
            ({"strategy": "auo"}, ValueError, "Did you mean 'auto'"),
            ({"run_key": jax.random.key(0)}, TypeError, "run_key must be a RunKey"),
        ],
    )
    def test_bad_options(self, options, error, message):
        with pytest.raises(error, match=message):
            make(**options)

    @pytest.mark.parametrize("size", [0, -1])
    def test_bad_microbatches(self, size):
        with pytest.raises(ValueError, match="microbatch_size must be at least 1"):
            make().batches(0, microbatch_size=size)
