"""The texts of records of every kind."""

from dpjax.audit import lowercase_records, target_texts
from dpjax.data import Completions, Conversations, Texts

ASK = {"role": "user", "content": "Who Is It?"}
SAY = {"role": "assistant", "content": "It Is ADA."}


def test_target_texts():
    assert target_texts(Texts(["One", "Two"])) == ["One", "Two"]
    records = Completions(["Who?", [ASK]], ["ADA", [SAY, SAY]])
    assert target_texts(records) == ["ADA", "It Is ADA.\nIt Is ADA."]
    assert target_texts(Conversations([[ASK, SAY, ASK, SAY]])) == ["It Is ADA.\nIt Is ADA."]


def test_lowercase_records():
    assert lowercase_records(Texts(["ÄB"])) == Texts(["äb"])
    ask, say = ASK | {"content": "who is it?"}, SAY | {"content": "it is ada."}
    records = Completions(["Who?", [ASK]], ["ADA", [SAY]])
    assert lowercase_records(records) == Completions(["who?", [ask]], ["ada", [say]])
    records = Conversations([[ASK, SAY]])
    assert lowercase_records(records) == Conversations([[ask, say]])
    assert records == Conversations([[ASK, SAY]])
