"""Pairs of answers from files: as prompts with answers, and as conversations of two endings."""

from __future__ import annotations

import json

import pytest

from dpjax.data import DataSource, Preferences, read_preferences

PAIR = {"prompt": "Is it open?", "chosen": "Until six.", "rejected": "No idea."}
ASKED = [{"role": "user", "content": "Is it open?"}]
CHOSEN = [{"role": "assistant", "content": "Until six."}]
REJECTED = [{"role": "assistant", "content": "No idea."}]
SECRET = "jane doe takes insulin"


def read(path, *records, **options):
    path = path / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_preferences(DataSource(str(path), **options))


def test_texts(tmp_path):
    assert read(tmp_path, PAIR) == Preferences(["Is it open?"], ["Until six."], ["No idea."])


def test_columns_have_the_names_that_options_say(tmp_path):
    record = {"question": "Is it open?", "good": "Until six.", "bad": "No idea.", "chosen": 1}
    names = {"prompt_column": "question", "chosen_column": "good", "rejected_column": "bad"}
    assert read(tmp_path, record, **names) == read(tmp_path, PAIR)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": ASKED, "chosen": CHOSEN, "rejected": REJECTED},
        {"chosen": ASKED + CHOSEN, "rejected": ASKED + REJECTED},
        {"prompt": "Is it open?", "chosen": ASKED + CHOSEN, "rejected": ASKED + REJECTED},
    ],
    ids=["apart", "in the answers", "in both"],
)
def test_messages(tmp_path, record):
    assert read(tmp_path, record) == Preferences([ASKED], [CHOSEN], [REJECTED])


def test_all_that_both_have_in_front_is_the_prompt(tmp_path):
    before = [*ASKED, *CHOSEN, {"role": "user", "content": "And on Sunday?"}]
    found = read(tmp_path, {"chosen": before + CHOSEN, "rejected": before + REJECTED})
    assert found == Preferences([before], [CHOSEN], [REJECTED])


def test_owners_are_no_part_of_a_record(tmp_path):
    found = read(tmp_path, PAIR | {"who": 7}, owner_column="who")
    assert found.owners == ["7"] and len(list(found.units())) == 1
    assert list(found.units()) == list(read(tmp_path, PAIR).units())


def test_several_files_may_have_the_prompt_in_either_place(tmp_path):
    for name, record in (
        ("a", {"chosen": ASKED + CHOSEN, "rejected": ASKED + REJECTED}),
        ("b", {"prompt": ASKED, "chosen": REJECTED, "rejected": CHOSEN}),
    ):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record))
    found = read_preferences(DataSource(str(tmp_path / "*.jsonl")))
    assert found == Preferences([ASKED] * 2, [CHOSEN, REJECTED], [REJECTED, CHOSEN])


BAD = {
    "no column of the rejected": (
        {"prompt": "a", "chosen": "b", "reject": "c"},
        "has no column 'rejected'.*Did you mean rejected_column='reject'",
    ),
    "same": (PAIR | {"rejected": "Until six."}, "the same answer as chosen and as rejected"),
    "same messages": (
        {"chosen": ASKED + CHOSEN, "rejected": ASKED + CHOSEN},
        "the same answer as chosen and as rejected",
    ),
    "empty": (PAIR | {"rejected": " "}, "rejected missing or empty"),
    "null": (PAIR | {"chosen": None}, "chosen missing or empty"),
    "empty prompt": (PAIR | {"prompt": ""}, "prompt missing or empty"),
    "texts without a prompt": (
        {"chosen": "b", "rejected": "c"},
        "no prompt, which answers that are texts need",
    ),
    "two kinds": (PAIR | {"rejected": REJECTED}, "rejected of another kind than the prompt"),
    "nothing in common": (
        {"chosen": CHOSEN, "rejected": REJECTED},
        "no prompt, neither in a column nor as messages that both answers have",
    ),
    "one ends early": (
        {"chosen": ASKED + CHOSEN, "rejected": ASKED},
        "an answer that ends where the other one goes on",
    ),
    "another prompt": (
        {"prompt": SECRET, "chosen": ASKED + CHOSEN, "rejected": ASKED + REJECTED},
        "a prompt that is a text and not what comes before the answers",
    ),
    "the user answers": (
        {"prompt": ASKED, "chosen": CHOSEN, "rejected": ASKED},
        "a rejected message whose role is not assistant",
    ),
    "a weight": (
        {"prompt": ASKED, "chosen": [CHOSEN[0] | {"weight": 1}], "rejected": REJECTED},
        "a message with a weight",
    ),
}


@pytest.mark.parametrize(("record", "message"), BAD.values(), ids=list(BAD))
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, record, message):
    with pytest.raises(ValueError, match=message) as said:
        read(tmp_path, record)
    assert "\n" not in str(said.value) and SECRET not in str(said.value)


def test_a_column_that_was_named_must_be_there(tmp_path):
    record = {"chosen": ASKED + CHOSEN, "rejected": ASKED + REJECTED, "question": "x"}
    with pytest.raises(ValueError, match=r"Did you mean prompt_column='question'"):
        read(tmp_path, record, prompt_column="questions")
