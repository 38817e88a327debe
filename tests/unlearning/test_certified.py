"""Noisy steps: the bound in closed form, what it must obey, and an audit from the worst starts."""

import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import norm
from transformers import GPT2Config

from dpjax.audit import AttackCounts, clopper_pearson_epsilon
from dpjax.data import LanguageDataset
from dpjax.models import CausalLM, LoraConfig, Trainable, add_lora, parse_config, split_trainable
from dpjax.privatize import RunKey, gaussian_noise
from dpjax.unlearning import Certified
from dpjax.unlearning.certified.certificate import describe_certificate
from dpjax.unlearning.certified.noisy_steps import ROUNDING, NoisySteps
from dpjax.unlearning.setup.certifiable import check_can_certify
from dpjax.unlearning.steps.noisy_descent import clip_to_norm, noisy_descent, noisy_step

STEPS = NoisySteps(
    start_norm=1.0, gradient_norm=0.5, learning_rate=0.2, noise_stddev=1.5, num_steps=1
)
NUM_RUNS = 20_000


def with_steps(number, **changes):
    return dataclasses.replace(STEPS, num_steps=number, **changes)


def test_one_step_is_a_gaussian_of_known_sensitivity():
    rounded = 2 * ROUNDING * (1.0 + 0.2 * 0.5)
    assert STEPS.mu == pytest.approx((2 * 1.0 + 2 * 0.2 * 0.5 + rounded) / 1.5)
    mu, epsilon = STEPS.mu, STEPS.epsilon(1e-3)
    delta = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    assert delta == pytest.approx(1e-3, rel=1e-3)


def test_without_gradient_it_is_amplification_by_iteration():
    for number in (1, 4, 25):
        steps = with_steps(number, gradient_norm=0.0)
        rounded = 2 * ROUNDING * number
        assert steps.mu == pytest.approx((2 + rounded) / (1.5 * math.sqrt(number)))


def test_linear_chain_without_gradient_and_projection_reaches_the_bound():
    # x ← ρ x + Z from ±C₀: the means differ by 2 C₀ ρᵀ, the variance is s² Σ ρ²ʲ.
    steps = with_steps(6, gradient_norm=0.0, weight_decay=0.5)
    ratio = 0.9
    spread = 1.5 * math.sqrt(sum(ratio ** (2 * j) for j in range(6)))
    rounded = 2 * ROUNDING * ratio * sum(ratio**j for j in range(6))
    assert steps.mu == pytest.approx((2 * ratio**6 + rounded) / spread)


@pytest.mark.parametrize("decay", (0.0, 0.4, 5.0))
def test_bound_never_rises_with_steps_and_is_that_of_the_best_shifts(decay):
    mus = [with_steps(number, weight_decay=decay).mu for number in range(1, 60)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(mus))
    # Any other way to spread the shifts over the last n steps that ends at 0 gives no less.
    draws, ratio = np.random.default_rng(0), 1 - 0.2 * decay
    grown = 2 * (0.2 * 0.5 + ROUNDING * (ratio + 0.2 * 0.5))
    for _ in range(200):
        left, spent = 2.0, 0.0
        number = int(draws.integers(1, 60))
        for step in range(number):
            reached = ratio * left + grown
            share = 1.0 if step == number - 1 else draws.uniform()
            spent += (share * reached) ** 2
            left = (1 - share) * reached
        assert math.sqrt(spent) / 1.5 >= with_steps(number, weight_decay=decay).mu * (1 - 1e-9)


def test_norms_are_never_above_the_bound():
    tree = {"a": jnp.full((1000, 100), 3.0), "b": jnp.ones(7)}
    clipped = clip_to_norm(tree, 0.1)
    length = math.sqrt(sum(float((np.asarray(x, np.float64) ** 2).sum()) for x in clipped.values()))
    assert 0.0999 < length <= 0.1
    assert clip_to_norm({"a": jnp.array([0.03, 0.04])}, 0.1)["a"].tolist() == pytest.approx(
        [0.03, 0.04]
    )
    for bad in (jnp.nan, jnp.inf):
        assert clip_to_norm({"a": jnp.array([bad, 1.0])}, 0.1)["a"].tolist() == [0.0, 0.0]
    assert clip_to_norm({"a": jnp.zeros(2)}, 0.1)["a"].tolist() == [0.0, 0.0]


def length_of(tree):
    """In float64."""
    return math.sqrt(sum(float((np.asarray(x, np.float64) ** 2).sum()) for x in tree.values()))


@pytest.mark.parametrize("entry", (1e-25, 3e-20, 1e25))
def test_norms_of_tiny_and_huge_entries_neither_vanish_nor_overflow(entry):
    for bound in (entry, 1000 * entry):
        clipped = clip_to_norm({"a": jnp.full((500, 200), entry)}, bound)
        assert 0.999 * min(bound, 316.2 * entry) < length_of(clipped) <= bound


def test_what_float32_does_in_a_step_stays_below_what_the_bound_allows_for():
    steps = with_steps(1, weight_decay=0.7, gradient_norm=0.3)
    numbers = np.random.default_rng(0)
    keys = RunKey.from_seed(0).noise_keys(step=0)
    start = {"a": jnp.asarray(numbers.normal(size=(64, 4096)), jnp.float32)}
    slope = {"a": jnp.asarray(numbers.normal(size=(64, 4096)), jnp.float32)}
    for stddev in (1e-6, 1.0):
        used = dataclasses.replace(steps, noise_stddev=stddev)
        first = clip_to_norm(start, used.start_norm)
        there = np.asarray(noisy_step(first, slope, keys, used)["a"], np.float64)
        noise = np.asarray(gaussian_noise(keys, first, stddev)["a"], np.float64)
        descent = np.asarray(slope["a"], np.float64)
        exact = (1 - 0.2 * 0.7) * np.asarray(first["a"], np.float64) + noise
        exact -= 0.2 * 0.3 * descent / np.linalg.norm(descent)
        exact *= min(1.0, 1.0 / np.linalg.norm(exact))
        assert np.linalg.norm(there - exact) < ROUNDING * (0.86 + 0.2 * 0.3)


def test_what_float32_rounds_to_zero_and_too_many_steps_are_refused():
    complete = {"start_norm": 1.0, "gradient_norm": 0.5, "learning_rate": 0.1, "num_steps": 20}
    complete |= {"target_epsilon": 3.0, "delta": 1e-5}
    for name, value in (("start_norm", 1e-42), ("noise_stddev", 1e-42), ("num_steps", 10**12)):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            dataclasses.replace(STEPS, **{name: value})
        changed = complete | {name: value}
        if name == "noise_stddev":
            del changed["target_epsilon"]
        with pytest.raises(ValueError, match=f"^certified.{name} must be"):
            Certified(**changed)
    with pytest.raises(ValueError, match="nothing of the adapter is left"):
        Certified(**complete | {"gradient_norm": 0.0, "weight_decay": 10.0}).to_steps()


def endpoints(steps, start, seed, noise_stddev):
    """Ends of many chains on a line whose gradients push away from 0 as hard as they may."""
    used = dataclasses.replace(steps, noise_stddev=noise_stddev)
    keys = jax.random.split(jax.random.key(seed), (NUM_RUNS, steps.num_steps, 4))

    @jax.jit
    @jax.vmap
    def run(keys):
        def step(x, noise_keys):
            gradient = {"x": -100.0 * jnp.sign(x["x"])}
            return noisy_step(x, gradient, noise_keys, used), None

        first = clip_to_norm({"x": jnp.array([start])}, used.start_norm)
        return jax.lax.scan(step, first, keys)[0]["x"][0]

    return np.asarray(run(keys))


def lower_bound(steps, threshold, noise_stddev, delta):
    """What many runs from both worst starts prove of ε; the threshold is chosen before."""
    seen, unseen = (
        int((endpoints(steps, start, seed, noise_stddev) > threshold).sum())
        for seed, start in enumerate((9.0, -9.0))
    )
    counts = AttackCounts(
        true_positives=seen,
        num_positives=NUM_RUNS,
        false_positives=unseen,
        num_negatives=NUM_RUNS,
    )
    return clopper_pearson_epsilon(counts, delta=delta).epsilon


# In the second the ends stay far inside of the ball: there the bound is reached.
_LINEAR = NoisySteps(
    start_norm=1.0,
    gradient_norm=0.0,
    learning_rate=0.2,
    noise_stddev=0.1,
    num_steps=3,
    weight_decay=2.5,
)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "threshold"), [(STEPS, 0.9), (_LINEAR, 0.12)])
def test_audit_from_the_worst_starts_refutes_half_the_noise_and_not_the_bound(steps, threshold):
    claimed, delta = steps.epsilon(0.05), 0.05
    assert lower_bound(steps, threshold, steps.noise_stddev, delta) <= claimed
    assert lower_bound(steps, threshold, steps.noise_stddev / 2, delta) > claimed


def test_noise_for_a_target_meets_it_and_hardly_more():
    options = Certified(
        start_norm=2.0,
        gradient_norm=0.3,
        learning_rate=0.2,
        num_steps=12,
        weight_decay=0.5,
        target_epsilon=4.0,
        delta=1e-6,
    )
    steps = options.to_steps()
    assert 3.9 < steps.epsilon(1e-6) <= 4.0
    assert (steps.num_steps, steps.weight_decay) == (12, 0.5)
    given = dataclasses.replace(options, target_epsilon=None, noise_stddev=0.7)
    assert given.to_steps().noise_stddev == 0.7
    with pytest.raises(ValueError, match="give one of them"):
        dataclasses.replace(options, noise_stddev=0.7)
    with pytest.raises(ValueError, match=r"certified\.delta must be above 0"):
        dataclasses.replace(options, delta=1.0)


def test_whole_decay_without_gradient_leaves_nothing_to_tell():
    assert with_steps(2, gradient_norm=0.0, weight_decay=5.0).epsilon(1e-5) == 0.0


def test_certificate_says_what_was_done_and_names_every_condition():
    certificate = describe_certificate(STEPS, 1e-3)
    assert certificate["epsilon"] == STEPS.epsilon(1e-3) and certificate["mu"] == STEPS.mu
    assert certificate["steps"] == dataclasses.asdict(STEPS)
    conditions = " ".join(certificate["conditions"])
    for word in ("base", "publish", "key", "choos", "retained", "Copies", "retrained/"):
        assert word in conditions.replace("chosen", "choos")


@pytest.mark.parametrize(
    "changes", [{"use_dora": True}, {"trainable_token_indices": (3,)}, {"base": "model"}]
)
def test_runs_that_a_certificate_does_not_fit_are_refused(changes, tmp_path):
    train = tmp_path / "train.jsonl"
    base = tmp_path / "earlier" / changes.pop("base", "other")
    base.mkdir(parents=True)
    written = json.dumps({"train_data": {"path": str(train)}})
    (base.parent / "config.json").write_text(written)
    config = SimpleNamespace(
        lora=LoraConfig(rank=2, **changes),
        train_data=SimpleNamespace(path=str(train)),
        model="m",
    )
    run = SimpleNamespace(folder="run", config=config, plan=SimpleNamespace(checkpoint=base))
    with pytest.raises(ValueError, match=r"whose zero is not the base|was itself tuned on"):
        check_can_certify(run)
    config.lora, run.plan.checkpoint = LoraConfig(rank=2, freeze_a=True), base.parent / "hub"
    check_can_certify(run)


def test_impossible_steps_are_refused():
    with pytest.raises(ValueError, match="noise_stddev must be positive"):
        with_steps(1, noise_stddev=0.0)
    with pytest.raises(ValueError, match="times weight_decay must be at most 1"):
        with_steps(1, weight_decay=6.0)
    with pytest.raises(ValueError, match="num_steps must be from 1 to"):
        with_steps(0)


@pytest.mark.slow
def test_descent_of_a_model_starts_clipped_stays_in_the_ball_and_its_noise_is_the_keys():
    config = GPT2Config(vocab_size=19, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    model = CausalLM(parse_config(config.to_dict()), rngs=nnx.Rngs(0))
    add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
    split = split_trainable(model, Trainable.lora())
    ids = np.random.default_rng(0).integers(1, 19, (5, 6)).astype(np.int32)
    retain = LanguageDataset(
        ids, ids > 0, truncated=np.zeros(5, bool), loss_mask=np.arange(6) > np.zeros((5, 1))
    )
    steps = with_steps(3, noise_stddev=0.01)
    narrow = split.replace(
        trainable=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), split.trainable)
    )
    with pytest.raises(TypeError, match="trained parameters must be float32, got bfloat16"):
        noisy_descent(narrow, retain, steps, batch_size=2, run_key=RunKey.from_seed(0), seed=0)

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    ends = [
        flat(
            noisy_descent(
                split, retain, steps, batch_size=2, run_key=RunKey.from_seed(seed), seed=0
            ).trainable
        )
        for seed in (1, 1, 2)
    ]
    assert np.linalg.norm(flat(split.trainable)) > 1.0
    assert all(np.linalg.norm(end) <= 1.0 for end in ends)
    assert np.array_equal(ends[0], ends[1])
    assert 0.005 < (ends[0] - ends[2]).std() < 0.05
