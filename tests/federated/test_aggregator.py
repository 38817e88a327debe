"""Updates that come from elsewhere: who may send one, what is refused, and what comes out."""

import copy
import pickle
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from dpjax_accounting import DPSGD

import dpjax
from dpjax.federated import PrivateAggregator

CLIP_NORM = 0.5
LIKE = {"w": np.zeros((3, 2)), "b": np.zeros(2)}


def server(noise_multiplier=1e-6, seed=1, **arguments):
    mechanism = DPSGD(
        num_units=60, expected_batch_size=30, noise_multiplier=noise_multiplier, num_steps=4
    )
    arguments = {"clip_norm": CLIP_NORM} | arguments
    key = dpjax.RunKey.from_seed(seed)
    return PrivateAggregator(LIKE, mechanism=mechanism, run_key=key, **arguments)


def answers_of(cohort, seed=0):
    rng = np.random.default_rng(seed)
    return {
        int(client): {"w": rng.normal(size=(3, 2)), "b": jnp.asarray(rng.normal(size=2))}
        for client in cohort
    }


def flat(tree):
    return np.concatenate([np.ravel(tree["w"]), np.ravel(tree["b"])]).astype(np.float64)


def mean_by_hand(answers):
    vectors = [flat(update) for update in answers.values()]
    return sum(v * min(1.0, CLIP_NORM / np.linalg.norm(v)) for v in vectors) / 30


def test_the_mean_is_that_of_clipped_updates_over_the_expected_cohort():
    aggregator = server()
    cohort = aggregator.cohort(0)
    assert 16 < len(cohort) < 45
    assert (cohort == aggregator.cohort(0)).all()
    answers = answers_of(cohort)
    np.testing.assert_allclose(
        flat(aggregator.aggregate(answers, 0)), mean_by_hand(answers), atol=1e-5
    )


def test_who_does_not_answer_contributes_zero():
    aggregator = server()
    answers = answers_of(aggregator.cohort(0)[:3])
    np.testing.assert_allclose(
        flat(aggregator.aggregate(answers, 0)), mean_by_hand(answers), atol=1e-5
    )
    assert np.isfinite(flat(aggregator.aggregate({}, 1))).all()


def test_an_update_that_is_not_finite_contributes_zero():
    aggregator = server()
    answers = answers_of(aggregator.cohort(0))
    bad = next(iter(answers))
    answers[bad]["w"][0, 0] = np.nan
    with pytest.warns(UserWarning, match="1 of .* updates of round 0 are not finite"):
        mean = aggregator.aggregate(answers, 0)
    del answers[bad]
    np.testing.assert_allclose(flat(mean), mean_by_hand(answers), atol=1e-5)


def test_noise_is_that_of_the_mechanism():
    sizes = []
    for seed in range(20):
        aggregator = server(noise_multiplier=3.0, seed=seed)
        sizes.append(flat(aggregator.aggregate({}, 0)))
    assert np.std(sizes) == pytest.approx(3.0 * CLIP_NORM / 30, rel=0.25)


def test_a_round_is_released_once_and_with_its_own_clients_alone():
    aggregator = server()
    outside = int(np.setdiff1d(np.arange(60), aggregator.cohort(0))[0])
    answers = answers_of(aggregator.cohort(0))
    with pytest.raises(ValueError, match=f"client {outside}, which was not drawn in round 0"):
        aggregator.aggregate(answers | answers_of([outside]), 0)
    aggregator.aggregate(answers, 0)
    with pytest.raises(ValueError, match="has been released already"):
        aggregator.aggregate(answers, 0)
    with pytest.raises(ValueError, match=r"range\(4\)"):
        aggregator.cohort(4)


def test_other_trees_and_shapes_are_refused():
    aggregator = server()
    client = int(aggregator.cohort(0)[0])
    with pytest.raises(TypeError, match=f"update of client {client} must have the structure"):
        aggregator.aggregate({client: {"w": np.zeros((3, 2))}}, 0)
    with pytest.raises(ValueError, match=r"must have shape \(3, 2\) at \['w'\], got \(2, 3\)"):
        aggregator.aggregate({client: {"w": np.zeros((2, 3)), "b": np.zeros(2)}}, 0)
    with pytest.raises(TypeError, match=r"like\['n'\] must be floating-point"):
        PrivateAggregator(
            {"n": np.zeros(2, int)},
            mechanism=DPSGD(num_units=4, expected_batch_size=2, noise_multiplier=1.0, num_steps=1),
            run_key=dpjax.RunKey.from_seed(0),
            clip_norm=1.0,
        )
    with pytest.raises(TypeError, match="constant clip norm"):
        server(clip_norm=None, rule=dpjax.AdaptiveClipping())
    with pytest.raises(ValueError, match="like must have an array at least"):
        PrivateAggregator(
            {"frozen": None},
            mechanism=DPSGD(num_units=4, expected_batch_size=2, noise_multiplier=1.0, num_steps=1),
            run_key=dpjax.RunKey.from_seed(0),
            clip_norm=1.0,
        )


@pytest.mark.parametrize(
    "leaf",
    [1j * np.ones((3, 2)), np.full((3, 2), "1.5"), np.full((3, 2), None), np.ones((3, 2), int)],
)
def test_what_is_no_real_number_is_refused(leaf):
    aggregator = server()
    client = int(aggregator.cohort(0)[0])
    with pytest.raises(TypeError, match=r"client \d+ must be floating-point at \['w'\], got dtype"):
        aggregator.aggregate({client: {"w": leaf, "b": np.zeros(2)}}, 0)


def test_updates_are_by_numbers_of_clients():
    aggregator = server()
    update = {"w": np.zeros((3, 2)), "b": np.zeros(2)}
    for updates in ([update], [(0, update)], None):
        with pytest.raises(TypeError, match="must map the number of each client"):
            aggregator.aggregate(updates, 0)
    for client in ("3", 3.0, True):
        with pytest.raises(TypeError, match="must be by numbers of clients"):
            aggregator.aggregate({client: update, 5: update}, 0)
    # Nothing was released by what was refused.
    aggregator.aggregate({}, 0)


@pytest.mark.parametrize("size", [1e30, 1e39])
def test_an_update_however_long_contributes_the_clip_norm_at_most(size):
    aggregator = server()
    client = int(aggregator.cohort(0)[0])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mean = aggregator.aggregate({client: {"w": np.full((3, 2), size), "b": np.zeros(2)}}, 0)
    assert np.linalg.norm(flat(mean)) * 30 <= CLIP_NORM + 1e-5
    assert all("are not finite and contributed zero" in str(each.message) for each in said)


@pytest.mark.parametrize(
    "copier", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]
)
def test_no_copy_releases_a_round_again(copier):
    aggregator = server()
    answers = answers_of(aggregator.cohort(0))
    with pytest.raises((TypeError, ValueError), match=r"cannot be copied|released already"):
        twin = copier(aggregator)
        aggregator.aggregate({}, 0)
        twin.aggregate(answers, 0)
