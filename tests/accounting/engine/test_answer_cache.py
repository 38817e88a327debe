"""The cache on disk: what it returns, what it never returns, and what it survives."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from dpjax_accounting import Composition, FullBatch, verify_report
from dpjax_accounting.engine import answer_cache
from dpjax_accounting.mechanisms.mechanism import Mechanism

from tests.support.mechanisms import dpsgd, full_batch

RUN = dpsgd(1000, 100, 8.0, 40)
DELTA = 1e-5


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache in which everything is kept, however quickly it was computed."""
    monkeypatch.setenv(answer_cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(answer_cache, "_WORTH_KEEPING", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def computed(monkeypatch):
    """Every (mechanism, δ) whose ε is computed and not read."""
    calls = []
    compute = Mechanism._computed_epsilon

    def recorded(mechanism, delta):
        calls.append((mechanism, delta))
        return compute(mechanism, delta)

    monkeypatch.setattr(Mechanism, "_computed_epsilon", recorded)
    return calls


def entries(folder):
    return sorted(folder.iterdir())


def test_the_second_answer_is_read_and_is_the_same_number(folder, computed):
    answers = [RUN.epsilon(DELTA), RUN.epsilon(delta=DELTA), dpsgd(1000, 100, 8, 40).epsilon(DELTA)]
    assert len(computed) == 1 and len(set(answers)) == 1
    assert RUN.delta(1.0) == RUN.delta(1.0)
    assert len(entries(folder)) == 2


@pytest.mark.parametrize("change", [{"num_steps": 41}, {"neighboring": "replace_one"}])
def test_another_question_has_another_answer(folder, computed, change):
    RUN.epsilon(DELTA)
    assert dataclasses.replace(RUN, **change).epsilon(DELTA) != RUN.epsilon(DELTA)
    assert RUN.epsilon(2 * DELTA) < RUN.epsilon(DELTA)
    assert RUN.delta(DELTA) != RUN.epsilon(DELTA)
    assert len(computed) == 3


def test_another_engine_or_library_computes_again(folder, computed, monkeypatch):
    RUN.epsilon(DELTA)
    answer_cache._versions.cache_clear()
    monkeypatch.setattr(answer_cache, "_ENGINE", "changed")
    RUN.epsilon(DELTA)
    answer_cache._versions.cache_clear()
    monkeypatch.setattr(answer_cache, "version", lambda package: f"{package} 99")
    RUN.epsilon(DELTA)
    answer_cache._versions.cache_clear()
    assert len(computed) == 3


def test_touching_any_module_changes_the_engine(tmp_path, monkeypatch):
    package = tmp_path / "package"
    shutil.copytree(answer_cache._PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(answer_cache, "_PACKAGE", package)
    before = answer_cache._hash_of_source()
    assert before == answer_cache._ENGINE
    modules = sorted(package.rglob("*.py"))
    assert {"mechanisms", "engine", "readings"} <= {module.parent.name for module in modules}
    for module in modules:
        text = module.read_text()
        module.write_text(text + "# touched\n")
        assert answer_cache._hash_of_source() not in (before, None), module
        module.write_text(text)
    modules[-1].rename(modules[-1].with_name("renamed.py"))
    assert answer_cache._hash_of_source() != before


def test_a_package_whose_source_cannot_be_read_has_no_engine(tmp_path, monkeypatch):
    monkeypatch.setattr(answer_cache, "_PACKAGE", tmp_path / "archive.zip")
    assert answer_cache._hash_of_source() is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "not an entry\n" * 3,
        # The answer, lowered by hand.
        lambda text: text.replace(text.split("\n")[1], "0x1.0p-9"),
        lambda text: text.replace(text.split("\n")[1], "0x1.0p+99999"),
        lambda text: text.replace('"num_steps": 40', '"num_steps": 1'),
    ],
)
def test_a_damaged_entry_is_computed_again_and_replaced(folder, computed, spoil):
    epsilon = RUN.epsilon(DELTA)
    (entry,) = entries(folder)
    good = entry.read_text()
    entry.write_text(spoil(good))
    assert RUN.epsilon(DELTA) == epsilon
    assert len(computed) == 2 and entry.read_text() == good
    entry.write_bytes(b"\xff\xfe")
    assert RUN.epsilon(DELTA) == epsilon


def test_an_entry_under_the_name_of_another_is_not_taken_for_it(folder):
    small = RUN.after(1).epsilon(DELTA)
    (foreign,) = entries(folder)
    epsilon = RUN.epsilon(DELTA)
    (own,) = set(entries(folder)) - {foreign}
    own.write_text(foreign.read_text())
    assert RUN.epsilon(DELTA) == epsilon > small


def test_verification_computes_although_a_forged_entry_passes_the_checksum(folder, report):
    report["guarantee"]["epsilon"] = 0.001
    key = answer_cache._key(RUN, "epsilon", DELTA)
    folder.mkdir()
    forged = folder / f"dpjax-{answer_cache._sha256(key)}.answer"
    forged.write_text(answer_cache._entry(key, 0.001))
    assert RUN.epsilon(DELTA) == 0.001
    (found,) = verify_report(report)
    assert "too low" in found
    assert entries(folder) == [forged]


def test_verification_leaves_the_cache_on_for_others(folder, computed, report):
    assert verify_report(report) == []
    assert not folder.exists()
    computed.clear()
    assert RUN.epsilon(DELTA) == RUN.epsilon(DELTA)
    assert len(computed) == 1


def test_errors_are_raised_with_and_without_entries(folder):
    full = full_batch(8.0, 40)
    full.delta(1.0)
    for wrong, error in ((True, TypeError), ("1", TypeError), (float("nan"), ValueError)):
        with pytest.raises(error):
            full.delta(wrong)
    for _ in range(2):
        with pytest.raises(ValueError, match="smallest supported delta"):
            full.epsilon(1e-30)
    assert len(entries(folder)) == 1


def test_what_is_quick_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(answer_cache, "_WORTH_KEEPING", 3600.0)
    RUN.epsilon(DELTA)
    assert not folder.exists()


def test_mechanisms_defined_elsewhere_are_not_kept(folder):
    @dataclasses.dataclass(frozen=True)
    class Elsewhere(FullBatch):
        """Its source is not in the hash."""

    one = Elsewhere(noise_multiplier=8.0, num_steps=40)
    assert one.epsilon(DELTA) == full_batch(8.0, 40).epsilon(DELTA)
    assert len(entries(folder)) == 1
    Composition((one, one)).epsilon(DELTA)
    assert len(entries(folder)) == 1


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch, folder):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(answer_cache.VARIABLE, str(tmp_path / "file" / "below"))
    assert RUN.epsilon(DELTA) > 0
    monkeypatch.setenv(answer_cache.VARIABLE, str(tmp_path))

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(answer_cache.os, "replace", full)
    assert RUN.epsilon(DELTA) > 0
    assert [path.name for path in entries(tmp_path)] == ["file"]


def test_the_folder_is_bounded_and_only_entries_are_deleted(folder, monkeypatch):
    monkeypatch.setattr(answer_cache, "_MOST_ENTRIES", 4)
    folder.mkdir()
    (folder / "notes.txt").write_text("somebody else's")
    for steps in range(1, 21):
        full_batch(8.0, steps).epsilon(DELTA)
    names = [path.name for path in entries(folder)]
    assert "notes.txt" in names and 2 <= len(names) - 1 <= 4
    before = entries(folder)
    Composition(tuple(full_batch(8.0 + i, 1) for i in range(300))).epsilon(DELTA)
    assert entries(folder) == before


def test_many_writers_leave_whole_entries(folder):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: full_batch(8.0, 3).epsilon(DELTA), range(64)))
    assert len(set(answers)) == 1
    (entry,) = entries(folder)
    key = answer_cache._key(full_batch(8.0, 3), "epsilon", DELTA)
    assert entry.read_text() == answer_cache._entry(key, answers[0])


@pytest.mark.parametrize(
    ("stated", "base", "expected"),
    [
        (None, None, "home/.cache/dpjax/accounting"),
        ("", "relative", "home/.cache/dpjax/accounting"),
        (None, "xdg", "xdg/dpjax/accounting"),
        ("stated", "xdg", "stated"),
        ("off", "xdg", None),
    ],
)
def test_where_it_is(tmp_path, monkeypatch, stated, base, expected):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable, value in ((answer_cache.VARIABLE, stated), ("XDG_CACHE_HOME", base)):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            literal = value in ("", "off", "relative")
            monkeypatch.setenv(variable, value if literal else str(tmp_path / value))
    found = answer_cache._folder()
    assert found == (None if expected is None else tmp_path / expected)


def test_another_process_reads_it(folder):
    RUN.epsilon(DELTA)
    program = (
        "from dpjax_accounting import mechanism_from_dict\n"
        "from dpjax_accounting.mechanisms.mechanism import Mechanism\n"
        "Mechanism._computed_epsilon = None\n"
        f"print(mechanism_from_dict({RUN.to_dict()!r}).epsilon({DELTA!r}))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert float(result.stdout) == RUN.epsilon(DELTA), result.stderr
