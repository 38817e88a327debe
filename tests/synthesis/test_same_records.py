"""The same seed gives the same records: in other batches, after interruptions, with other JAX."""

import errno
import signal
import stat

import jax
import pytest

import dpjax
from dpjax.synthesis.drawing import writer as module
from dpjax.synthesis.folder import SynthesisFolder
from dpjax.training import RunInterrupted, RunInUse, RunStopped

OPTIONS = {"num": 7, "prompt": "the apple is", "seed": 3}


@pytest.fixture(scope="module")
def whole(completions_run, tmp_path_factory):
    """The records of a few options, drawn four at once."""
    folder = tmp_path_factory.mktemp("whole") / "synthetic"
    return dpjax.synthesize(completions_run, **OPTIONS, output_dir=folder, batch_size=4)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_same_seed_gives_the_same_records_in_other_batches(
    completions_run, whole, tmp_path, batch_size
):
    again = dpjax.synthesize(
        completions_run, **OPTIONS, output_dir=tmp_path / "again", batch_size=batch_size
    )
    assert again.records.read_bytes() == whole.records.read_bytes()
    assert again.summary == whole.summary


def test_another_seed_gives_other_records_and_none_a_fresh_one(completions_run, whole, tmp_path):
    options = OPTIONS | {"batch_size": 4}
    others = [
        dpjax.synthesize(completions_run, **options | {"seed": seed}, output_dir=tmp_path / name)
        for name, seed in (("other", 4), ("fresh", None))
    ]
    texts = {result.records.read_bytes() for result in (whole, *others)}
    assert len(texts) == 3
    seed = others[1].summary["options"]["seed"]
    again = dpjax.synthesize(
        completions_run, **options | {"seed": seed}, output_dir=tmp_path / "again"
    )
    assert again.records.read_bytes() == others[1].records.read_bytes()


@pytest.fixture
def stop_after(monkeypatch):
    """Function that makes a signal come after some batches; returns how many were written."""
    write = module.Writer.write

    def arrange(num_batches):
        counted = []

        def stop(self, places):
            counted.append(len(places))
            if len(counted) > num_batches:
                signal.raise_signal(signal.SIGTERM)
            return write(self, places)

        monkeypatch.setattr(module.Writer, "write", stop)
        return counted

    return arrange


def test_an_interruption_changes_no_record(completions_run, whole, tmp_path, stop_after):
    options = OPTIONS | {"output_dir": tmp_path / "stopped"}
    stop_after(1)
    with pytest.raises(RunInterrupted, match="--resume goes on") as stopped:
        dpjax.synthesize(completions_run, **options, batch_size=2)
    assert stopped.value.signal_number == signal.SIGTERM
    draws = tmp_path / "stopped" / "unfinished" / "draws.jsonl"
    assert len(draws.read_bytes().splitlines()) == 2
    assert stat.S_IMODE(draws.stat().st_mode) == 0o600
    with draws.open("a") as file:
        file.write('{"condition": 0, "num')
    with pytest.raises(FileExistsError, match=r"interrupted; name a new folder \(or --resume"):
        dpjax.synthesize(completions_run, **options)
    with pytest.raises(ValueError, match=r"started with temperature=1\.0, now it is 2\.0"):
        dpjax.synthesize(completions_run, **options, temperature=2.0, resume=True)
    counted = stop_after(100)
    result = dpjax.synthesize(completions_run, **options, batch_size=3, resume=True)
    assert sum(counted) == whole.summary["records"]["drawn"] - 2
    assert result.records.read_bytes() == whole.records.read_bytes()
    assert not draws.parent.exists()
    # What is finished is not drawn again.
    counted.clear()
    assert dpjax.synthesize(completions_run, **options, resume=True).summary == result.summary
    assert counted == []


def test_what_a_full_disk_stops_is_finished_without_the_model(
    completions_run, options, monkeypatch
):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dpjax.synthesis.run.write_report", refuse)
        with pytest.raises(RunStopped, match="make room on the disk"):
            dpjax.synthesize(completions_run, **options)
    monkeypatch.setattr(module, "load_causal_lm", None)
    # The seed is that of the draws.
    result = dpjax.synthesize(completions_run, **options | {"seed": None}, resume=True)
    assert result.num_records == 7 and result.summary["options"]["seed"] == options["seed"]


def test_a_second_process_is_refused(completions_run, options):
    folder = SynthesisFolder(options["output_dir"], is_private=True, file_format="jsonl")
    with folder.lock(), pytest.raises(RunInUse, match="in use by another process"):
        dpjax.synthesize(completions_run, **options)


def test_generators_of_jax_do_not_matter(completions_run, whole, tmp_path):
    with jax.default_prng_impl("rbg"):
        again = dpjax.synthesize(
            completions_run, **OPTIONS, output_dir=tmp_path / "again", batch_size=4
        )
    assert again.records.read_bytes() == whole.records.read_bytes()
