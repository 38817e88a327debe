"""A version of JAX that the tests have not seen is used if it passes the self-check."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import pytest

import dpjax
from dpjax.privatize.structured import clipped_sums, self_check
from dpjax.privatize.structured.program import jaxpr, versions

FAST = ("one_backward", "two_backwards")


@pytest.fixture
def unknown_version(monkeypatch, tmp_path):
    """JAX as if its version were new, and an empty folder of what has passed."""
    monkeypatch.setattr(versions, "KNOWN_VERSIONS", ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    versions._failure.cache_clear()
    yield tmp_path
    versions._failure.cache_clear()


def kept_operands(strategy):
    """Whether a clipped gradient is computed without forming (B, 40, 30) of them."""
    params, batch = jnp.ones((40, 30)), jnp.ones((7, 2, 40))
    fn = dpjax.clipped_grad(lambda w, x: jnp.sum(jnp.tanh(x @ w)), clip_norm=1.0, strategy=strategy)
    return "7,40,30" not in str(jax.make_jaxpr(fn)(params, batch))


def test_this_version_is_known():
    clipped_sums.check_readable()
    assert all(kept_operands(strategy) for strategy in FAST)


def test_what_passes_is_used_without_a_word_from_inside_any_transformation(unknown_version):
    def step(w, x):
        with jax.numpy_rank_promotion("raise"):
            fn = dpjax.clipped_grad(lambda w, x: jnp.sum(jnp.tanh(x @ w)), clip_norm=1.0)
            return fn(w, x).norms

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(jax.vmap(step, (None, 0)))(jnp.eye(3), jnp.ones((2, 2, 4, 3)))
        assert all(kept_operands(strategy) for strategy in FAST)
    assert len(list(unknown_version.rglob("*.passed"))) == 1


def test_what_has_passed_is_not_checked_again(unknown_version, monkeypatch):
    mark = versions._mark(jax.__version__)
    mark.parent.mkdir(parents=True)
    mark.touch()
    monkeypatch.setattr(clipped_sums, "_self_check", lambda: pytest.fail("it was checked again"))
    clipped_sums.check_readable()


@pytest.mark.usefixtures("unknown_version")
def test_another_version_is_checked_for_itself():
    assert versions._mark("1.0.0") != versions._mark("1.0.1")


def test_a_version_without_the_options_that_save_time_compiles_without_them(monkeypatch):
    monkeypatch.setattr(self_check, "_FAST_TO_COMPILE", {"xla_no_such_option": True})
    assert clipped_sums._self_check() is None


def turned(read):
    """Loops read as if they ran the other way."""

    def turned_read(eqn):
        loop = read(eqn)
        return dataclasses.replace(loop, reverse=not loop.reverse)

    return turned_read


def test_a_layout_that_is_misread_is_noticed(unknown_version, monkeypatch):
    monkeypatch.setattr(jaxpr, "_read_loop", turned(jaxpr._read_loop))
    with pytest.warns(UserWarning, match="every per-example gradient.*disagree about"):
        assert not kept_operands("two_backwards")
    assert not list(unknown_version.rglob("*.passed"))


@pytest.mark.usefixtures("unknown_version")
def test_a_layout_that_cannot_be_read_is_noticed(monkeypatch):
    monkeypatch.setattr(jaxpr, "_BODY_PARAMS", ())
    with pytest.warns(UserWarning, match="every per-example gradient.*self-check failed"):
        assert not kept_operands("one_backward")
    with pytest.raises(jaxpr.UnreadableProgramError, match="is new to dpjax"):
        dpjax.explain(lambda w, x: jnp.sum(x @ w), jnp.eye(3), jnp.ones((2, 3)))
