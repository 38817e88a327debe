"""Every reason not to start an audit is found, named, and tells no text; and canaries are added."""

import dataclasses

import numpy as np
import pytest

from dpjax.audit.canaries.checks import (
    check_canaries,
    find_count_problems,
    find_repeated_canaries,
    find_secret_problems,
    find_share_problems,
    find_trained_canaries,
)
from dpjax.audit.canaries.encoding import append_canaries, encode_canaries
from dpjax.audit.canaries.makers.base import Canaries, number_ids
from dpjax.audit.canaries.makers.new_token import make_new_token
from dpjax.audit.verdicts.power import canaries_needed
from dpjax.data import Completions, Conversations, Records, Texts, encode_labelled, encode_language
from dpjax.privatize import RunKey
from tests.support.tiny_tokenizers import MARKED_TEMPLATE, make_tokenizer

KEY = RunKey.from_seed(2)
LONG = "the film is good and the play is bad " * 4


@pytest.fixture(scope="module")
def gpt():
    return make_tokenizer(chat_template=MARKED_TEMPLATE, pad_token="<s>")


@pytest.fixture(scope="module")
def training(gpt):
    return encode_language(Texts([f"{LONG} {row}" for row in range(40)]), gpt, 64)


def canaries_of(records, secrets):
    ids = number_ids("k", len(secrets))
    return Canaries(kind="k", ids=ids, records=records, secrets=tuple(secrets))


def secret_problems(canaries, tokenizer, max_length=64):
    return find_secret_problems(
        canaries, encode_canaries(canaries, tokenizer, max_length), tokenizer
    )


@pytest.mark.parametrize("claimed_epsilon", [1.0, 8.0, None])
def test_too_few_canaries_are_counted(claimed_epsilon):
    claim = {"claimed_epsilon": claimed_epsilon, "delta": 1e-5}
    needed = canaries_needed(**claim)
    (problem,) = find_count_problems(needed - 1, **claim)
    assert problem.startswith(f"{needed - 1} canaries") and f"; {needed} or more" in problem
    assert find_count_problems(needed, **claim) == ()
    assert find_count_problems(needed, **claim, confidence=0.99) != ()


def test_a_claim_that_no_audit_can_test_is_refused():
    with pytest.raises(ValueError, match="no number of canaries"):
        find_count_problems(1000, claimed_epsilon=0.0, delta=1e-5)


def test_good_secrets_pass(gpt):
    new = make_new_token(3, run_key=KEY, tokenizer=gpt, vocab_size=len(gpt) + 3)
    assert secret_problems(new, gpt) == ()
    texts = canaries_of(Texts(["a long book"]), ["long book"])
    assert secret_problems(texts, gpt) == ()
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a bad play"}]
    assert secret_problems(canaries_of(Conversations([said]), ["bad play"]), gpt) == ()
    messages = Completions([said[:1]], [said[1:]])
    assert secret_problems(canaries_of(messages, ["bad play"]), gpt) == ()


@pytest.mark.parametrize(
    "records",
    [
        Completions(["the code is 4711", "a"], ["the film", "9 is it"]),
        Completions(
            [[{"role": "user", "content": "4711"}], [{"role": "user", "content": "a"}]],
            [[{"role": "assistant", "content": "a"}], [{"role": "assistant", "content": "9"}]],
        ),
        Conversations(
            [
                [
                    {"role": "user", "content": "4711"},
                    {"role": "assistant", "content": "the film"},
                ],
                [{"role": "user", "content": "a"}, {"role": "assistant", "content": "9"}],
            ]
        ),
    ],
)
def test_a_secret_in_the_prompt_is_found(gpt, records):
    (problem,) = secret_problems(canaries_of(records, ["4711", "9"]), gpt)
    assert problem == "the secret is not on the side to be learnt: 1 of 2 canaries ('k-0001')"


def test_a_secret_that_is_cut_off_is_found(gpt):
    records = Completions([LONG, "a", LONG], ["4711", "4712", "4713"])
    canaries = canaries_of(records, ["4711", "4712", "4713"])
    (problem,) = secret_problems(canaries, gpt, max_length=12)
    assert problem == ("max_length cuts off the secret: 2 of 3 canaries ('k-0001', 'k-0003')")
    assert secret_problems(canaries, gpt, max_length=64) == ()


def test_a_token_that_is_taken_apart_is_found(gpt):
    """As when canaries are read by the tokenizer of the checkpoint."""
    new = make_new_token(2, run_key=KEY, tokenizer=gpt, vocab_size=len(gpt) + 2)
    wrong = encode_language(new.records, gpt, 64)
    (problem,) = find_secret_problems(new, wrong, gpt)
    assert problem.startswith("the targets are not the secret token alone: 2 of 2")
    empty = dataclasses.replace(wrong, loss_mask=np.zeros_like(wrong.loss_mask))
    (problem,) = find_secret_problems(new, empty, gpt)
    assert problem.startswith("there is no token to be learnt: 2 of 2")


def test_a_large_share_is_found_unless_it_is_asked_for(gpt, training):
    texts = [f"a good play {row}" for row in range(30)]
    encoded = encode_canaries(canaries_of(Texts(texts), texts), gpt, 64)
    planted = encoded.attention_mask.sum() / 2
    share = planted / (planted + training.attention_mask.sum())
    assert share > 0.01
    (problem,) = find_share_problems(encoded, training)
    assert f"{100 * share:.3g} %" in problem
    # As many as are said to fit do fit, and one more does not.
    fitting = int(problem.split("; ")[1].split()[0])
    assert find_share_problems(encoded.take(np.zeros(fitting, int)), training) == ()
    assert find_share_problems(encoded, training, most_share=share + 1e-6) == ()
    assert find_share_problems(encoded, training, most_share=share - 1e-6) != ()
    with pytest.raises(ValueError, match="most_share"):
        find_share_problems(encoded, training, most_share=0.0)


def test_equal_canaries_are_found(gpt):
    texts = ["a play", "a film", "a play"]
    canaries = canaries_of(Texts(texts), texts)
    (problem,) = find_repeated_canaries(canaries, encode_canaries(canaries, gpt, 64))
    assert problem == (
        "the tokens are those of another canary: 2 of 3 canaries ('k-0001', 'k-0003')"
    )


def test_texts_that_become_equal_are_found(gpt):
    texts = [LONG + "x", LONG + "y"]
    canaries = canaries_of(Texts(texts), texts)
    encoded = encode_canaries(canaries, gpt, 12)
    assert len(find_repeated_canaries(canaries, encoded)) == 1


def test_a_canary_that_is_trained_on_is_found_whatever_its_label(gpt):
    names = ("no", "yes")
    train = encode_labelled(Records(["a film", LONG], ["no", "yes"]), gpt, names, 48)
    canaries = canaries_of(Records(["a film", "a play"], ["yes", "no"]), ["yes", "no"])
    encoded = encode_canaries(canaries, gpt, 32, label_names=names)
    (problem,) = find_trained_canaries(canaries, encoded, train)
    assert problem == "the tokens are those of a training record: 1 of 2 canaries ('k-0001')"


def test_all_reasons_come_at_once_and_quote_nothing(gpt, training):
    texts = ["a pangolin", "a pangolin"]
    canaries = canaries_of(Completions(texts, ["the", "the"]), ["pangolin", "pangolin"])
    encoded = encode_canaries(canaries, gpt, 64)
    claim = {"claimed_epsilon": 2.0, "delta": 1e-5}
    with pytest.raises(ValueError) as error:
        check_canaries(
            canaries,
            encoded,
            encoded,
            gpt,
            **claim,
        )
    message = str(error.value)
    for part in (
        "too few",
        "not on the side",
        "% of the training tokens",
        "another canary",
        "a training record",
    ):
        assert part in message
    assert "pangolin" not in message
    good = canaries_of(Texts(["a bad book"]), ["a bad book"])
    with pytest.raises(ValueError, match=r"cannot start: 1 canaries are too few.*needed$"):
        check_canaries(good, encode_canaries(good, gpt, 64), training, gpt, **claim)


@pytest.mark.parametrize("find", [find_repeated_canaries, find_trained_canaries])
def test_rows_of_something_else_are_refused(training, find):
    canaries = canaries_of(Texts(["a"]), ["a"])
    more = {} if find is find_repeated_canaries else {"training": training}
    with pytest.raises(ValueError, match="encoded must have 1 rows, got 40"):
        find(canaries, training, **more)


def test_included_canaries_follow_the_training_records(gpt, training):
    new = make_new_token(4, run_key=KEY, tokenizer=gpt, vocab_size=len(gpt) + 4)
    encoded = encode_canaries(new, gpt, 64)
    included = np.array([True, False, False, True])
    whole = append_canaries(training, encoded, included)
    assert len(whole) == 42 and whole.truncated.shape == (42,)
    width = training.input_ids.shape[1]
    assert whole.input_ids.shape == whole.loss_mask.shape == (42, width)
    np.testing.assert_array_equal(whole.input_ids[:40], training.input_ids)
    for row, number in ((40, 0), (41, 3)):
        mask = whole.attention_mask[row]
        np.testing.assert_array_equal(
            whole.input_ids[row, mask], encoded.input_ids[number, encoded.attention_mask[number]]
        )
        assert whole.input_ids[row, whole.loss_mask[row]].tolist() == [len(gpt) + number]
    # The other way round, the training records become wider.
    assert append_canaries(encoded, training, np.ones(40, bool)).input_ids.shape == (44, width)
    assert append_canaries(training, encoded, np.zeros(4, bool)) is training


def test_canaries_of_another_task_are_not_added(gpt, training):
    canaries = canaries_of(Records(["a"], ["x"]), ["x"])
    encoded = encode_canaries(canaries, gpt, 16, label_names=("x", "y"))
    with pytest.raises(TypeError, match="encoded as LanguageDataset, got TextDataset"):
        append_canaries(training, encoded, np.array([True]))
    with pytest.raises(ValueError, match=r"included must be \(40,\)"):
        append_canaries(training, training, np.array([True]))
