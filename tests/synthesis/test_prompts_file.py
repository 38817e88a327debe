"""Files of prompts that are the run's own data, however they are named, are refused."""

import pytest

from dpjax.finetuning import FinetuneConfig
from dpjax.synthesis.conditions import make_conditions
from dpjax.synthesis.config import SynthesisConfig
from dpjax.synthesis.finished_run import FinishedRun


@pytest.mark.parametrize(
    ("learnt", "prompts", "is_private"),
    [
        ("parts/*.jsonl", "parts/a.jsonl", True),
        ("parts/a.jsonl", "parts/*.jsonl", True),
        ("parts/a.jsonl", "link.jsonl", True),
        ("parts", "parts/a.jsonl", True),
        ("parts/*.csv", "parts/a.jsonl", False),
        ("parts/b.jsonl", "parts/a.jsonl", False),
    ],
)
def test_prompts_from_the_runs_own_files(tmp_path, learnt, prompts, is_private):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.jsonl").write_text('{"text": "a"}')
    (tmp_path / "link.jsonl").symlink_to("parts/a.jsonl")
    fields = {
        "model": "m",
        "task": "causal_lm",
        "train_data": {"path": str(tmp_path / learnt), "record_format": "text"},
        "eval_data": "held_out.jsonl",
        "output_dir": "run",
        "privacy": {"target_epsilon": 3.0},
    }
    run = FinishedRun(tmp_path, FinetuneConfig.from_options(fields), {})
    config = SynthesisConfig(run="run", num=3, output_dir="new", prompts=str(tmp_path / prompts))
    if is_private:
        with pytest.raises(ValueError, match="prompts must be public, got the train_data"):
            make_conditions(config, run)
    else:
        assert [condition.prompt for condition in make_conditions(config, run)] == ["a"]
