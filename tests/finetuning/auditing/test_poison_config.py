"""What a poisoning audit may be asked for, and what is refused in a sentence."""

import pytest

from dpjax.finetuning import Poison, PoisonConfig

OPTIONS = {
    "model": "checkpoint",
    "train_data": "train.csv",
    "eval_data": "eval.csv",
    "output_dir": "audit",
    "privacy": {"target_epsilon": 3.0, "clip_norm": 0.3},
    "poison": {"target": "good", "epsilons": [8.0, 1.0]},
}


def test_one_recipe_is_trained_with_each_privacy():
    settings = PoisonConfig.from_options(OPTIONS).settings()
    assert list(settings) == ["no privacy", "ε = 8", "ε = 3", "ε = 1"]
    found = [
        (s.non_private, s.privacy.target_epsilon, s.privacy.clip_norm) for s in settings.values()
    ]
    assert found == [(True, None, 0.3), (False, 8.0, 0.3), (False, 3.0, 0.3), (False, 1.0, 0.3)]
    poison = {"target": "good", "non_private_too": False}
    assert list(PoisonConfig.from_options(OPTIONS | {"poison": poison}).settings()) == ["ε = 3"]
    plain = OPTIONS | {"poison": poison, "privacy": {}, "non_private": True}
    assert list(PoisonConfig.from_options(plain).settings()) == ["no privacy"]
    noise = OPTIONS | {"poison": poison, "privacy": {"noise_multiplier": 2.0}}
    assert list(PoisonConfig.from_options(noise).settings()) == ["σ = 2"]


def test_a_recipe_whose_clip_norm_adapts_has_a_constant_one_without_privacy():
    adaptive = {"target_epsilon": 3.0, "target_quantile": 0.5, "count_stddev": 7.0}
    settings = PoisonConfig.from_options(OPTIONS | {"privacy": adaptive}).settings()
    without = settings.pop("no privacy").privacy
    assert (without.target_quantile, without.count_stddev) == (None, None)
    assert {s.privacy.target_quantile for s in settings.values()} == {0.5}


def test_a_recipe_that_needs_privacy_says_what_to_leave_out():
    config = PoisonConfig.from_options(OPTIONS | {"training": {"gradient": "zeroth-order"}})
    with pytest.raises(ValueError, match=r"Or give poison\.non_private_too=False"):
        config.settings()


def test_two_privacies_of_one_name_are_refused():
    poison = {"target": "good", "epsilons": [8.0, 8.0000001]}
    with pytest.raises(ValueError, match="two values that are ε = 8 in the report"):
        PoisonConfig.from_options(OPTIONS | {"poison": poison}).settings()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "token_classification"}, "sequence_classification or causal_lm, got task=token_"),
        ({"audit": {"num_canaries": 200}}, "audits of one run: leave them out here"),
        ({"privacy": {"target_epsilon": 3.0, "ledger": "l"}}, "models that may be released"),
        ({"train_data": {"path": "t.csv", "owner_column": "who"}}, "records that belong to nobody"),
        (
            {"privacy": {"target_epsilon": 3.0, "neighboring": "zero_out"}},
            "poisoned records are added ones, got privacy.neighboring=zero_out",
        ),
        (
            {
                "privacy": {
                    "target_epsilon": 3.0,
                    "sampling": "fixed-size",
                    "neighboring": "zero_out",
                }
            },
            "privacy.sampling=fixed-size cannot",
        ),
        ({"overwrite": True}, "overwrites nothing"),
        ({"non_private": True, "privacy": {}}, "leaves no recipe for poison.epsilons"),
    ],
)
def test_what_a_run_may_have_and_an_audit_may_not(changes, words):
    with pytest.raises(ValueError, match=words):
        PoisonConfig.from_options(OPTIONS | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": " "}, "poison.target must be a label or a completion"),
        ({"counts": ()}, "poison.counts must be different values, got"),
        ({"counts": (4, 4)}, "poison.counts must be different values, got"),
        ({"counts": (0,)}, "poison.counts must be at least 1, got 0"),
        ({"triggers": ("rare_tokens",)}, "poison.triggers .* Did you mean 'rare_token'"),
        ({"place": "ends"}, "poison.place .* Did you mean 'end'"),
        ({"num_sets": 0}, "poison.num_sets must be at least 1"),
        ({"num_clean_models": 0}, "poison.num_clean_models must be at least 1"),
        ({"epsilons": (-1.0,)}, "poison.epsilons must be positive"),
        ({"confidence": 1.0}, "poison.confidence must be between 0 and 1"),
        ({"rare_token": "two words"}, "rare_token trigger must be one word"),
        ({"sentence": ""}, "the trigger must be a text"),
    ],
)
def test_poison_is_checked(changes, words):
    with pytest.raises(ValueError, match=words):
        Poison(**{"target": "good"} | changes)


def test_a_misspelt_option_names_the_nearest():
    with pytest.raises(TypeError, match=r"poison.num_set. Did you mean 'poison.num_sets'"):
        PoisonConfig.from_options(OPTIONS | {"poison": {"target": "good", "num_set": 2}})
