"""Shadows against ordinary loops with the same keys, and an attack that needs them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD

from dpjax.audit import (
    ShadowTraining,
    auc,
    balanced_membership,
    bavaria_scores,
    classifier_confidence,
    lira_scores,
    rmia_scores,
    score_shadows,
    shadow_key,
    train_shadows,
)
from dpjax.models import SplitModel, fresh_lora
from dpjax.privatize import RunKey, private_gradient

KEY = RunKey.from_seed(3)
NUM_RECORDS, SIZE, CLASSES = 20, 6, 3
RNG = np.random.default_rng(0)
RECORDS = {
    "x": RNG.normal(size=(NUM_RECORDS, SIZE)).astype(np.float32),
    "y": RNG.integers(0, CLASSES, NUM_RECORDS).astype(np.int32),
}
MODEL = SplitModel(
    None,
    {"layer": {"lora_a": jnp.ones((SIZE, 2)), "lora_b": jnp.ones((2, CLASSES))}},
    {"layer": {"kernel": jnp.asarray(RNG.normal(size=(SIZE, CLASSES)), jnp.float32)}},
)
MEMBERSHIP = balanced_membership(4, NUM_RECORDS, run_key=KEY)
STEPS, BATCH, CLIP, SIGMA = 4, 3, 0.5, 0.7
PRIVATE = ShadowTraining(
    num_steps=STEPS, expected_batch_size=BATCH, clip_norm=CLIP, noise_multiplier=SIGMA
)
PLAIN = ShadowTraining(num_steps=STEPS, expected_batch_size=BATCH)
OPTIMIZER = optax.adam(0.05)


def logits(trainable, record, frozen):
    own = trainable["layer"]
    return record["x"] @ (frozen["layer"]["kernel"] + own["lora_a"] @ own["lora_b"])


def loss(trainable, record, frozen):
    z = logits(trainable, record, frozen)
    return optax.softmax_cross_entropy_with_integer_labels(z, record["y"])


def train(training, mapping="auto", membership=MEMBERSHIP, **changes):
    options = {"records": RECORDS, "run_key": KEY, "model": MODEL, "loss": loss} | changes
    return train_shadows(
        optimizer=OPTIMIZER, membership=membership, training=training, mapping=mapping, **options
    )


def by_ordinary_loop(shadow, clip_norm, sigma):
    """A loop of `private_gradient` over the shadow's records alone, with the shadow's key."""
    key = shadow_key(KEY, shadow)
    members = np.flatnonzero(MEMBERSHIP[shadow])
    mechanism = DPSGD(
        num_units=len(members), expected_batch_size=BATCH, noise_multiplier=sigma, num_steps=STEPS
    )
    private = private_gradient(loss, mechanism=mechanism, clip_norm=clip_norm, run_key=key)
    params = fresh_lora(MODEL.trainable, MODEL.frozen, key=key.model_key("lora"))
    state = OPTIMIZER.init(params)
    for step in range(STEPS):
        total = private.zeros(params, step)
        for rows, mask in private.batches(step, microbatch_size=4):
            batch = {name: leaf[members[rows]] for name, leaf in RECORDS.items()}
            total = private.add(total, params, batch, mask, MODEL.frozen)
        updates, state = OPTIMIZER.update(private.release(total, step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def close(left, right, atol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), left, right)


def of_shadow(shadows, shadow):
    return jax.tree.map(lambda leaf: leaf[shadow], shadows.trainable)


@pytest.fixture(scope="module", params=["vmap", "map"])
def both_ways(request):
    return [train(training, request.param) for training in (PRIVATE, PLAIN)]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("shadow", range(2))
def test_a_shadow_is_what_an_ordinary_loop_makes(both_ways, shadow):
    private, plain = both_ways
    close(of_shadow(private, shadow), by_ordinary_loop(shadow, CLIP, SIGMA))
    # Next to no noise on sums that nothing shortens: Adam would lengthen it.
    close(of_shadow(plain, shadow), by_ordinary_loop(shadow, 10.0, 1e-18))


@pytest.mark.parametrize("training", [PRIVATE, PLAIN])
def test_records_that_are_left_out_leave_no_trace(training):
    shadows = train(training, "map", MEMBERSHIP[:2])
    changed = {name: leaf.copy() for name, leaf in RECORDS.items()}
    changed["x"][~MEMBERSHIP[1]] = np.nan
    again = train(training, "map", MEMBERSHIP[:2], records=changed)
    close(of_shadow(again, 1), of_shadow(shadows, 1), atol=0)


def test_shadows_have_keys_of_their_own():
    alike = train(PRIVATE, membership=np.ones((3, NUM_RECORDS), bool))
    starts = [
        fresh_lora(MODEL.trainable, MODEL.frozen, key=shadow_key(KEY, i).model_key("lora"))
        for i in (0, 1)
    ]
    assert not np.allclose(starts[0]["layer"]["lora_a"], starts[1]["layer"]["lora_a"])
    assert not np.allclose(alike.losses[0], alike.losses[1])


@pytest.mark.parametrize(("microbatch_size", "mapping"), [(2, "vmap"), (1, "map"), (50, "map")])
def test_microbatches_change_memory_only(both_ways, microbatch_size, mapping):
    training = ShadowTraining(
        num_steps=STEPS, expected_batch_size=BATCH, microbatch_size=microbatch_size
    )
    shadows = train(training, mapping)
    close(shadows.trainable, both_ways[1].trainable)
    np.testing.assert_allclose(shadows.losses, both_ways[1].losses, atol=1e-5)


def test_all_records_are_scored_under_all_shadows(both_ways):
    shadows = both_ways[1]
    for mapping in ("vmap", "map"):
        scores = score_shadows(
            logits, shadows.trainable, MODEL.frozen, RECORDS, batch_size=7, mapping=mapping
        )
        assert scores.shape == (4, NUM_RECORDS, CLASSES)
        for shadow in range(4):
            kernel = MODEL.frozen["layer"]["kernel"]
            own = of_shadow(shadows, shadow)["layer"]
            expected = RECORDS["x"] @ (kernel + own["lora_a"] @ own["lora_b"])
            np.testing.assert_allclose(scores[shadow], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 1.0}, "clip_norm and noise_multiplier must be given together"),
        ({"noise_multiplier": 1.0}, "must be given together"),
        ({"num_steps": 0}, "num_steps must be positive, got 0"),
        ({"clip_norm": -1.0, "noise_multiplier": 1.0}, "clip_norm must be positive"),
        ({"microbatch_size": 0}, "microbatch_size must be positive"),
    ],
)
def test_impossible_training_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ShadowTraining(**({"num_steps": 1, "expected_batch_size": 2} | options))


def test_what_does_not_fit_is_refused_before_training():
    with pytest.raises(ValueError, match="one column for each record, got 19 columns"):
        train(PLAIN, membership=MEMBERSHIP[:, 1:])
    with pytest.raises(TypeError, match="membership must be boolean"):
        train(PLAIN, membership=MEMBERSHIP.astype(int))
    with pytest.raises(ValueError, match="mapping must be one of"):
        train(PLAIN, mapping="pmap")
    with pytest.raises(TypeError, match="run_key must be a RunKey"):
        train(PLAIN, run_key=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        score_shadows(logits, MODEL.trainable, MODEL.frozen, RECORDS, batch_size=0)


def test_a_shadow_that_diverged_is_named():
    frozen = {"layer": {"kernel": MODEL.frozen["layer"]["kernel"]}, "switch": jnp.zeros(())}

    def diverging(trainable, record, frozen):
        return loss(trainable, record, frozen) + frozen["switch"]

    model = MODEL._replace(frozen=frozen, trainable=MODEL.trainable | {"bias": jnp.array(np.nan)})
    with pytest.raises(ValueError, match="shadow 0 and 4 of 4 in all have trained parameters"):
        train(PLAIN, model=model, loss=diverging)


def test_reference_attacks_beat_the_loss_attack():
    """An overfitted linear model; how hard a record is differs more than what membership adds."""
    n, size, k = 200, 150, 16
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, size)) * rng.choice([0.2, 0.5, 1.0], (n, 1))
    y = (x @ rng.normal(size=size) + 5 * rng.normal(size=n) > 0).astype(np.int32)
    records = {"x": x.astype(np.float32), "y": y}
    model = SplitModel(
        None,
        {"layer": {"lora_a": jnp.zeros((size, 4)), "lora_b": jnp.zeros((4, 2))}},
        {"layer": {"kernel": jnp.zeros((size, 2))}},
    )
    is_member = np.arange(n) % 2 == 0
    membership = np.concatenate([[is_member], balanced_membership(k, n, run_key=KEY)])
    trained = train_shadows(
        loss,
        model,
        optax.adam(0.03),
        records,
        membership,
        ShadowTraining(num_steps=150, expected_batch_size=20),
        run_key=KEY,
    )
    outputs = score_shadows(logits, trained.trainable, model.frozen, records)
    scores, log_probs = classifier_confidence(outputs, y), _log_probs(outputs, y)

    def area(values):
        return auc(values[is_member], values[~is_member])

    by_loss = area(log_probs[0])
    attacks = {
        "lira": lira_scores(scores[0], scores[1:], membership[1:]),
        "lira offline": lira_scores(scores[0], scores[1:], membership[1:], offline=True),
        "bavaria": bavaria_scores(scores[0], scores[1:], membership[1:]),
        "bavaria offline": bavaria_scores(scores[0], scores[1:], membership[1:], offline=True),
    }
    areas = {name: area(values) for name, values in attacks.items()}
    assert by_loss > 0.6
    assert min(areas.values()) > by_loss + 0.05
    # RMIA compares each half of the records with a half that the target left out.
    population = ~is_member
    rmia = rmia_scores(
        log_probs[0],
        log_probs[1:],
        membership[1:],
        log_probs[0, population],
        log_probs[1:, population],
        membership[1:, population],
    )
    assert area(rmia) > by_loss + 0.05


def _log_probs(outputs, labels):
    confidence = classifier_confidence(outputs, labels)
    return -np.logaddexp(0.0, -confidence)
