"""All scores by name, with each forward pass made once."""

import jax
import numpy as np
import pytest

from dpjax.audit import (
    SCORES,
    Evidence,
    GradientStatistics,
    Neighbours,
    collect_evidence,
    compute_scores,
    ez_score,
    needs_of,
    ratio_score,
    token_statistics,
)
from dpjax.audit.scores import collect
from dpjax.models import LoraConfig, add_lora, base_model
from tests.support.language_records import random_records
from tests.support.tiny_checkpoints import random_model
from tests.support.token_toys import BASE_LOGITS, made_up, toy

OF_TEXTS = [name for name, score in SCORES.items() if "tuned" in score.needs]
EVIDENCE = Evidence(
    tuned=toy(),
    base=toy(BASE_LOGITS),
    lowercase=made_up([[-2.0]]),
    texts=["abc"],
    neighbours=np.array([[-2.0, -3.0]]),
    logits=np.array([[1.0, 0.0]]),
    labels=np.array([0]),
    gradients=GradientStatistics(norms=np.ones(1), products=np.ones(1)),
)


def test_every_score_gives_one_finite_number_for_a_record():
    found = compute_scores(list(SCORES), EVIDENCE)
    assert list(found) == list(SCORES)
    for values in found.values():
        assert values.shape == (1,) and values.dtype == np.float64 and np.isfinite(values).all()
    assert all(score.summary and score.needs for score in SCORES.values())


def test_every_score_is_higher_for_a_member():
    """A member is more probable by itself, and more so than under the base, than others."""
    rise = np.array([[2.5] * 4, [0.1] * 4])
    low = np.full((2, 4), -3.0)
    evidence = Evidence(
        tuned=made_up(low + rise),
        base=made_up(low),
        lowercase=made_up(low),
        texts=["some text"] * 2,
        neighbours=low,
        logits=np.array([[3.0, 0.0], [0.1, 0.0]]),
        labels=np.array([0, 0]),
        gradients=GradientStatistics(norms=np.array([0.1, 2.0]), products=np.array([-2.0, 0.1])),
    )
    # Every window of both rose: WBC counts how many did.
    names = [name for name in SCORES if name != "wbc"]
    for name, (member, other) in compute_scores(names, evidence).items():
        assert member > other, name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rato", r"names must be among loss, .*, got 'rato'. Did you mean 'ratio'\?"),
        ("min_k++", r"got 'min_k\+\+'. Did you mean 'min_k"),
        ("qqqqqqq", "got 'qqqqqqq'.$"),
    ],
)
def test_misspelt_names_are_refused_with_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        compute_scores(["loss", name], EVIDENCE)
    with pytest.raises(ValueError, match=message):
        collect_evidence([name], random_records([4]), tuned=None)


def test_lists_of_names_that_make_no_sense_are_refused():
    for names in ([], "loss"):
        with pytest.raises(ValueError, match="names must be a list of at least 1 score"):
            compute_scores(names, EVIDENCE)
    with pytest.raises(ValueError, match="names must be different"):
        needs_of(["loss", "loss"])


def test_missing_evidence_is_refused():
    message = "evidence must hold base, got None. Score 'ez' needs tuned and base"
    with pytest.raises(ValueError, match=message):
        compute_scores(["loss", "ez"], Evidence(tuned=toy()))
    with pytest.raises(ValueError, match="evidence must hold something"):
        Evidence()
    with pytest.raises(ValueError, match=r"one number of records, got \{'tuned': 1, 'texts': 2\}"):
        Evidence(tuned=toy(), texts=["a", "b"])


@pytest.fixture
def passes(monkeypatch):
    """The forward passes that are made: which model, which records."""
    made = []

    def count(model, records, *, batch_size):
        made.append((model, records))
        return token_statistics(model, records, batch_size=batch_size)

    monkeypatch.setattr(collect, "token_statistics", count)
    return made


def test_each_forward_pass_is_made_once(passes):
    tuned = random_model("gpt2", "causal_lm")
    add_lora(tuned, LoraConfig(rank=2), key=jax.random.key(0))
    base, records = base_model(tuned), random_records([9, 5])
    lowercase = random_records([9, 6], seed=1)
    evidence = collect_evidence(
        OF_TEXTS,
        records,
        tuned=tuned,
        base=base,
        texts=["one", "two"],
        lowercase=lowercase,
        neighbours=Neighbours(number=2),
    )
    assert sorted(map(id, (m for m, _ in passes))) == sorted(map(id, (base, tuned, tuned)))
    assert sum(r is lowercase for _, r in passes) == 1
    found = compute_scores(OF_TEXTS, evidence)
    # A fresh adapter changes nothing.
    assert found["ratio"].tolist() == [0.0, 0.0]
    assert all(np.isfinite(values).all() for values in found.values())
    statistics = token_statistics(tuned, records)
    np.testing.assert_array_equal(found["ratio"], ratio_score(statistics, evidence.base))
    np.testing.assert_array_equal(found["ez"], ez_score(statistics, evidence.base))


def test_no_forward_pass_is_made_that_no_score_needs(passes):
    tuned, records = random_model("gpt2", "causal_lm"), random_records([9, 5])
    evidence = collect_evidence(["loss", "min_k"], records, tuned=tuned, base=tuned, texts=["a"])
    assert [model is tuned for model, _ in passes] == [True]
    assert evidence.base is None and evidence.texts is None and evidence.neighbours is None


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["ratio", "zlib"], {}, "base and texts must be given"),
        (["lowercase"], {}, "lowercase must be given"),
        (["zlib"], {"texts": ["a"]}, "texts must be 2, one for each record, got 1"),
        (["lowercase"], {"lowercase": random_records([3])}, "lowercase must be 2, one for each"),
        (["loss", "margin"], {}, "names must be scores of texts, got some that need labels and lo"),
        (["gradient_norm"], {}, "got some that need gradients"),
    ],
)
def test_what_is_missing_is_refused_before_any_model_runs(passes, names, options, message):
    with pytest.raises(ValueError, match=message):
        collect_evidence(names, random_records([9, 5]), tuned=None, **options)
    assert passes == []
