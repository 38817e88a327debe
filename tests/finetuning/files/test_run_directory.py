"""A run's folder: locked while it is used, started where no key was used, deleted when asked."""

import json
import os

import pytest

import dpjax
from dpjax.finetuning import run, set_up
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.files.run_directory import RunDirectory, RunState
from dpjax.finetuning.training import loop
from dpjax.training import RunInUse
from tests.support.runs import check, weights


@pytest.mark.slow
def test_a_folder_is_locked_while_it_is_used(cheap_options, whole, tmp_path, monkeypatch):
    options = cheap_options | {"output_dir": tmp_path / "run"}
    update, said = loop.TrainingProgress.update, []

    def second(self, step, *arguments):
        update(self, step, *arguments)
        for changes in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(RunInUse, match=r"in use by another process.*wait") as refused:
                check(options | changes)
            said.append(str(refused.value))

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingProgress, "update", second)
        result = dpjax.finetune(**options)
    assert len(said) == 12 and weights(result.output_dir) == weights(whole.output_dir)


def test_of_two_that_passed_the_check_one_starts(cheap_options, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    plain = {name: str(v) if isinstance(v, os.PathLike) else v for name, v in cheap_options.items()}
    config = FinetuneConfig.from_options(plain | {"output_dir": str(folder)})
    first, second = set_up(config), set_up(config)
    update = loop.TrainingProgress.update

    def meanwhile(self, step, *arguments):
        update(self, step, *arguments)
        with pytest.raises(RunInUse):
            run.execute(second)

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingProgress, "update", meanwhile)
        run.execute(first)
    with pytest.raises(FileExistsError, match="holds another run"):
        run.execute(second)


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "what comes before the key"])
def test_what_has_not_used_its_key_is_started(cheap_options, whole, tmp_path, left, capsys):
    folder = tmp_path / "run"
    if left != "nothing":
        folder.mkdir()
    if left.startswith("what"):
        (folder / "private" / "checkpoint").mkdir(parents=True)
        (folder / "private" / "identity.json").write_text("{")
        (folder / "private" / "run_key.json.partial").write_text("{")
        (folder / "config.json.partial").write_text("")
        with pytest.raises(FileExistsError, match=r"holds another run.*--resume"):
            dpjax.finetune(**cheap_options, output_dir=folder)
    result = dpjax.finetune(**cheap_options, output_dir=folder, resume=True)
    assert "nothing to resume" in capsys.readouterr().out
    assert weights(result.output_dir) == weights(whole.output_dir)


def test_overwrite_deletes_an_unfinished_run_and_nothing_else(stopped, whole, capsys):
    folder = stopped["output_dir"]
    options = stopped | {"resume": False, "overwrite": True}
    (folder / "letter.txt").write_text("dear")
    run_id = json.loads((folder / "privacy.json").read_text())["run"]["id"]
    result = dpjax.finetune(**options)
    assert "had spent ε = " in capsys.readouterr().out
    assert result.privacy["run"]["id"] != run_id and (folder / "letter.txt").exists()
    assert weights(folder) == weights(whole.output_dir)


def test_overwrite_does_not_touch_other_folders(cheap_options, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="files of no run"):
        dpjax.finetune(**cheap_options, output_dir=tmp_path, overwrite=True)
    with pytest.raises(ValueError, match="give one of them"):
        dpjax.finetune(**cheap_options, output_dir=tmp_path, overwrite=True, resume=True)
    assert RunDirectory(tmp_path).state() is RunState.OTHER
