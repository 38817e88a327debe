"""Files of records are read again as they were written, whatever the model wrote."""

import pytest

from dpjax.data import DataSource, read_language_records, read_records
from dpjax.synthesis.conditions import Columns, Condition
from dpjax.synthesis.drawing.draws import Draw, Place
from dpjax.synthesis.folder import SynthesisFolder
from dpjax.synthesis.records_file import write_records

TEXTS = ['a "b", c', "two\nlines", "\r", "x\r\ny", "\u2028z\x85", "ä 日本", "'=1+1", "\ufffd\t"]


@pytest.mark.parametrize("file_format", ["jsonl", "csv"])
def test_records_survive_their_file(tmp_path, file_format):
    folder = SynthesisFolder(tmp_path, is_private=True, file_format=file_format)
    draws = {Place(0, row): Draw(f"<{text}>", 1, True) for row, text in enumerate(TEXTS)}
    conditions = [Condition("p, \n", None, len(TEXTS))]
    write_records(folder, Columns("completion", "prompt"), conditions, list(draws), draws)
    read = read_language_records(DataSource(str(folder.records)))
    assert read.completions == [f"<{text}>" for text in TEXTS]
    assert read.prompts == ["p, \n"] * len(TEXTS)
    labelled = [Condition("p", "a,b", len(TEXTS))]
    write_records(folder, Columns("text", "label"), labelled, list(draws), draws)
    assert set(read_records(DataSource(str(folder.records))).labels) == {"a,b"}
