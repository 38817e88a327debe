"""Which draws become records, whatever the order in which they come."""

import numpy as np
import pytest

from dpjax.synthesis.conditions import Columns, Condition, split_number
from dpjax.synthesis.drawing.draws import Draw, Place, choose, interleave
from dpjax.synthesis.drawing.log import DrawLog


def draw(text):
    return Draw(text, 1, True)


def choose_naively(conditions, stream, max_tries):
    """One draw after the other, condition after condition."""
    records, drawn = [], 0
    for which, condition in enumerate(conditions):
        texts = []
        for number in range(max_tries * condition.num):
            if len(texts) == condition.num:
                break
            drawn += 1
            text = stream(Place(which, number)).strip()
            if text and text not in texts:
                texts.append(text)
                records.append(Place(which, number))
    return records, drawn


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_records_are_those_of_one_draw_after_the_other(seed, batch_size):
    rng = np.random.default_rng(seed)
    conditions = [Condition("a", None, 6), Condition("b", None, 1), Condition("c", None, 9)]
    texts = rng.choice(["", " ", *"abcdefghijkl"], (3, 60))

    def stream(place):
        return str(texts[place])

    draws = {}
    while (chosen := choose(conditions, draws, 3)).missing:
        assert not draws.keys() & set(chosen.missing)
        for place in chosen.missing[:batch_size]:
            draws[place] = draw(stream(place))
    records, drawn = choose_naively(conditions, stream, 3)
    assert chosen.records == records
    assert len(draws) == drawn == len(records) + chosen.num_empty + chosen.num_repeated


def test_the_same_text_may_stand_for_two_values():
    conditions = [Condition("a", "a", 1), Condition("b", "b", 1)]
    draws = {Place(0, 0): draw("same"), Place(1, 0): draw("same")}
    assert len(choose(conditions, draws, 1).records) == 2


def test_conditions_are_mixed_in_their_proportions():
    conditions = [Condition("a", "a", 6), Condition("b", "b", 3)]
    places = [Place(which, number) for which in range(2) for number in range(6 - 3 * which)]
    mixed = [place.condition for place in interleave(conditions, places)]
    assert all(sum(mixed[start : start + 3]) == 1 for start in (0, 3, 6))


@pytest.mark.parametrize("shares", [(1.0, 1.0, 1.0), (0.5, 0.3, 0.2), (1e-9, 1.0), (7.0,)])
@pytest.mark.parametrize("num", [1, 10, 101])
def test_numbers_add_up_and_are_within_one_of_their_share(num, shares):
    nums = split_number(num, shares)
    assert sum(nums) == num
    exact = num * np.array(shares) / sum(shares)
    assert (np.abs(nums - exact) < 1 + 1e-9).all()


def test_columns_of_records():
    given = Condition("the sky is", "sky", 1)
    assert Columns("text", "label").record(given, " blue\n") == {"text": "blue", "label": "sky"}
    prompted = Condition("the sky is", None, 1)
    assert Columns("completion", "prompt").record(prompted, " blue") == {
        "prompt": "the sky is",
        "completion": " blue",
    }
    joined = Columns("text", None, joins_prompt=True)
    assert joined.record(prompted, " blue") == {"text": "the sky is blue"}
    assert joined.record(Condition(None, None, 1), "blue") == {"text": "blue"}


def test_a_log_is_read_again_without_half_a_line(tmp_path):
    path = tmp_path / "draws.jsonl"
    written = {Place(0, 1): draw("two\nlines \u2028"), Place(1, 0): Draw("ä", 3, False)}
    with DrawLog(path) as log:
        log.append(written)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"condition": 1, "num')
    with DrawLog(path) as log:
        assert log.draws == written
        log.append({Place(1, 1): draw("next")})
    with DrawLog(path) as log:
        assert log.draws == written | {Place(1, 1): draw("next")}
    # Lines after a damaged one are drawn again.
    path.write_bytes(b"{}\n" + whole)
    with DrawLog(path) as log:
        assert log.draws == {}
