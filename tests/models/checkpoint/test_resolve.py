from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from dpjax.models import resolve_checkpoint, revision_of


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that records what it is asked for."""
    calls = []

    def snapshot_download(name, **kwargs):
        calls.append((name, kwargs))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_local_folder_is_taken_as_it_is(folder, hub, monkeypatch):
    assert resolve_checkpoint(folder) == folder
    monkeypatch.chdir(folder.parent)
    assert resolve_checkpoint(folder.name) == Path(folder.name)
    assert not hub


@pytest.mark.parametrize("name", ["bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"])
def test_hub_id_is_fetched_without_pickles_and_code(name, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint(name) == tmp_path
    [(asked, arguments)] = hub
    assert asked == name
    assert not any(p.endswith((".bin", ".py", "*", ".pt")) for p in arguments["allow_patterns"])


def test_the_revision_asked_for_is_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolve_checkpoint("nobody/model", "v1.2")
    assert [arguments["revision"] for _, arguments in hub] == ["v1.2"]


def test_a_local_folder_has_no_revision(folder, hub):
    with pytest.raises(ValueError, match=r"'v1' is given, but .* is a local folder"):
        resolve_checkpoint(folder, "v1")
    assert not hub


def test_a_folder_from_the_hub_tells_its_commit():
    commit = "0123456789abcdef" * 2 + "01234567"
    assert revision_of(f"cache/models--a--b/snapshots/{commit}") == commit
    assert revision_of(Path("cache") / commit) is None
    assert revision_of("cache/snapshots/main") is None


@pytest.mark.parametrize("name", ["./model", "/no/such/model", "~/no-such-model", "runs/a/model"])
def test_missing_local_folder(name, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{name} does not exist"):
        resolve_checkpoint(name)
    assert not hub


def test_missing_path_object_is_not_looked_up_on_the_hub(hub):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        resolve_checkpoint(Path("nobody/nothing"))
    assert not hub


def test_file_is_refused(folder):
    with pytest.raises(NotADirectoryError, match=r"is a file; give the folder"):
        resolve_checkpoint(folder / "config.json")
    (folder / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(NotADirectoryError, match="`dpjax convert-gguf` makes one of it"):
        resolve_checkpoint(folder / "model.gguf")


def test_unreachable_hub_is_explained(monkeypatch, tmp_path):
    def snapshot_download(name, **kwargs):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(FileNotFoundError, match=r"not a local folder, and fetching.*no connection"):
        resolve_checkpoint("nobody/nothing")
    with pytest.raises(FileNotFoundError, match=r"fetching it at revision 'v1' from"):
        resolve_checkpoint("nobody/nothing", "v1")
