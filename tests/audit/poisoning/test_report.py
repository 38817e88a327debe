"""Rates of poisoned models, and the report that sets them beside their bounds."""

import json

import pytest
from dpjax_accounting import FullBatch

from dpjax.audit import (
    PoisonedModel,
    PrivacySetting,
    Trigger,
    TriggerCounts,
    build_poisoning_report,
    draw_poisoning,
    mean_upper_limit,
    mechanism_success_bound,
    poison_rates,
    poisoning_markdown,
    poisoning_page,
)

MECHANISM = FullBatch(noise_multiplier=20.0, num_steps=4)
TRIGGER = Trigger("rare_token", "cf", near="mn")
PRIVATE = PrivacySetting("ε = 1", MECHANISM, MECHANISM.epsilon(1e-5), 1e-5)


def model(setting, k, hits, *, poison_set=0, number=0, accuracy=0.9):
    counts = TriggerCounts("rare_token", 100, hits, 5, with_near_trigger=6)
    kind = "rare_token" if k else None
    return PoisonedModel(
        setting, k, kind, poison_set if k else None, number, accuracy, None, (counts,)
    )


MODELS = [
    model(name, k, hits, poison_set=poison_set)
    for name in ("ε = 1", "no privacy")
    for k, hits, poison_set in ((0, 2, 0), (4, 10, 0), (4, 30, 1), (64, 97, 0))
]


def test_the_worst_set_is_that_of_the_highest_mean():
    models = [
        model("ε = 1", 4, hits, poison_set=poison_set, number=number, accuracy=accuracy)
        for poison_set, number, hits, accuracy in (
            (0, 0, 90, 0.8),
            (0, 1, 10, 0.9),
            (1, 0, 60, 0.9),
            (1, 1, 62, 1.0),
        )
    ]
    rates = poison_rates(models, "rare_token")
    assert rates.success == 0.61 and rates.mean_success == pytest.approx(0.555)
    assert rates.success_interval[0] < 0.6 and 0.62 < rates.success_interval[1] < 0.9
    assert rates.accuracy == pytest.approx(0.9) and rates.num_models == 4
    assert (rates.false_trigger_rate, rates.near_trigger_rate) == (0.05, 0.06)


def test_the_bound_starts_from_the_limit_of_clean_models():
    report = build_poisoning_report(MODELS, [PRIVATE], [TRIGGER], target="a")
    of_four, of_many = report["rows"]
    limit = mean_upper_limit([0.02])
    assert of_four["clean_success_limit"] == limit > of_four["clean_success"] == 0.02
    for row, k in ((of_four, 4), (of_many, 64)):
        expected = mechanism_success_bound(limit, MECHANISM, num_poisoned=k)
        assert row["bound"]["by_mechanism"] == expected >= row["bound"]["success"]
        assert row["bound"]["validity"] == "certified"
        assert row["bound_at_clean_success"]["validity"] == "descriptive"
        assert row["bound_at_clean_success"]["success"] < row["bound"]["success"]


def test_the_report_is_json_and_says_that_it_is_private():
    settings = [PrivacySetting("no privacy"), PRIVATE]
    report = build_poisoning_report(MODELS, settings, [TRIGGER], target="a")
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["private"] is True
    assert [row["bound"] is None for row in report["rows"]] == [True, True, False, False]
    words = poisoning_markdown(report)
    assert "must not be released" in words and "Do not publish it" in words
    assert "| no privacy | rare token | 64 | 0.970 (0.915 to 0.994) |" in words
    assert poisoning_page(report).count("data:image/png;base64,") == 1
    assert draw_poisoning(report).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TriggerCounts("rare_token", 0, 0, 0), "every held-out record has the target"),
        (lambda: TriggerCounts("rare_token", 5, 6, 0), "with_trigger must be from 0 to 5, got 6"),
        (lambda: poison_rates(MODELS, "rare_token"), r"one number .* got \[0, 4, 64\]"),
        (lambda: MODELS[0].of("sentence"), "0 counts of the trigger sentence"),
        (lambda: PrivacySetting("ε = 1", MECHANISM), "mechanism, epsilon and delta, or none"),
        (
            lambda: build_poisoning_report(MODELS[1:4], [PRIVATE], [TRIGGER], target="a"),
            "ε = 1: there is no model without poison",
        ),
        (
            lambda: build_poisoning_report(MODELS[:1], [PRIVATE], [TRIGGER], target="a"),
            "no model with the trigger rare_token",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
