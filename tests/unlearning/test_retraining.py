"""The file of retained records that the baseline reads, and which runs have a baseline."""

import json

import pytest

from dpjax.data import Completions, Conversations, DataSource, Texts, read_language_records
from dpjax.finetuning import FinetuneConfig
from dpjax.unlearning.setup.tuned_run import _read_config
from dpjax.unlearning.stages.retraining import _format_of, _rows

TOOLS = [[{"type": "function", "function": {"name": "look_up"}}], []]
TALK = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]
OTHER = [*TALK, {"role": "user", "content": "When?"}, {"role": "assistant", "content": "Now."}]


@pytest.mark.parametrize(
    "records",
    [
        Texts(["one", "two"]),
        Texts(["one", "two"], owners=["ann", "bob"]),
        Completions(["a:", "b:"], ["one", "two"], owners=["ann", "ann"]),
        Completions([TALK[:1], OTHER[:3]], [TALK[1:], OTHER[3:]], tools=TOOLS),
        Conversations([TALK, OTHER], tools=TOOLS, owners=["ann", "bob"]),
    ],
)
def test_the_baseline_reads_the_records_of_the_run_with_all_that_belongs_to_them(records, tmp_path):
    path = tmp_path / "retained.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in _rows(records)))
    owners = None if records.owners is None else "owner"
    source = DataSource(str(path), owner_column=owners, record_format=_format_of(records))
    read = read_language_records(source)
    assert list(read.units()) == list(records.units())
    assert read.owners == records.owners


def test_a_federated_run_is_refused_as_one(tmp_path):
    options = {name: "x" for name in ("model", "train_data", "eval_data", "output_dir")}
    config = FinetuneConfig.from_options({**options, "non_private": True})
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict() | {"clients": {}, "server": {}}))
    with pytest.raises(ValueError, match="is a federated run"):
        _read_config(path)
