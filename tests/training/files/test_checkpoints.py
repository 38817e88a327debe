"""States of a run: whole or absent, secret, the last few kept, and placed as their targets are."""

import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpjax.training import Checkpoints, CheckpointWriter
from dpjax.training.files import array_folder


def state(value):
    return {"w": jnp.full((3, 2), value, jnp.float32), "n": jnp.int32(value)}


@pytest.fixture
def stored(tmp_path):
    """Two states, after 10 and 20 steps; the one after 5 is gone."""
    states = Checkpoints(tmp_path / "checkpoint", keep=2)
    states.start()
    assert states.restore(state(0))[0] == 0
    for step in (5, 10, 20):
        states.save(step, state(step))
    return states


def test_the_last_few_are_kept_and_only_the_owner_may_read_them(stored):
    assert stored.steps() == (10, 20)
    assert sorted(path.name for path in stored.folder.iterdir()) == [
        "latest.json",
        "step_10",
        "step_20",
    ]
    step, restored = stored.restore(state(0))
    assert step == 20 and jax.tree.all(jax.tree.map(np.array_equal, restored, state(20)))
    for path in stored.folder.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_the_state_before_takes_the_place_of_a_damaged_one(stored, how):
    newest = stored.folder / "step_20"
    if how == "missing":
        shutil.rmtree(newest)
    else:
        path = newest / "manifest.ocdbt"
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = stored.find()
    (remark,) = found.remarks
    assert found.step == 10
    assert f"step_20 is {how}: the run goes on from the state before it, after 10 steps" in remark
    step, restored = stored.restore(state(0))
    assert step == 10 and restored["n"] == 10
    # Going on from there, it stores the same step again.
    stored.save(20, state(20))
    assert stored.find().remarks == () and stored.steps() == (10, 20)
    (stored.folder / "step_20" / "_METADATA").unlink()
    shutil.rmtree(stored.folder / "step_10")
    with pytest.raises(ValueError, match=r"step_20 is damaged; put a copy of it back, or delete"):
        stored.find()


def full_disk(number):
    def write(*_, **__):
        # What orbax makes of it.
        raise ValueError(
            'RESOURCE_EXHAUSTED: Error writing "a/0" in OCDBT database: Failed to write 13 bytes '
            f"to file 14: [os_error_code='{number}']"
        )

    return write


@pytest.mark.parametrize("how", ["moved", "deleted", "made again"])
@pytest.mark.parametrize("says", [None, "Cannot get parameters: {'a'}", "DATA_LOSS: no manifest"])
def test_a_folder_that_goes_while_it_is_written_is_not_there(stored, monkeypatch, how, says):
    """Whatever orbax makes of it: that depends on what it did just then."""
    import orbax.checkpoint as ocp

    original = ocp.Checkpointer.save

    def save(self, path, args):
        if how == "moved":
            stored.folder.rename(stored.folder.with_name("moved"))
        else:
            shutil.rmtree(stored.folder)
        if how == "made again":
            stored.folder.mkdir()
        if says is not None:
            raise ValueError(says)
        original(self, path, args=args)

    monkeypatch.setattr(ocp.Checkpointer, "save", save)
    with pytest.raises(FileNotFoundError, match="No such file") as refused:
        stored.save(30, state(30))
    assert refused.value.filename == str(stored.folder)
    assert refused.value.__cause__ is None or str(refused.value.__cause__) == says


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOENT])
def test_what_the_disk_refuses_is_an_error_of_the_system(stored, monkeypatch, number):
    import orbax.checkpoint as ocp

    with monkeypatch.context() as patch:
        patch.setattr(ocp.Checkpointer, "save", full_disk(number))
        with pytest.raises(OSError, match=os.strerror(number)) as refused:
            stored.save(30, state(30))
    assert refused.value.errno == number
    with monkeypatch.context() as patch:
        patch.setattr(array_folder, "finish_folder", lambda *_: os.stat("nowhere"))
        with pytest.raises(FileNotFoundError):
            stored.save(30, state(30))
    assert stored.steps() == (10, 20) and len(list(stored.folder.iterdir())) == 3
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="other"):
        patch.setattr(ocp.Checkpointer, "save", lambda *_, **__: int("other"))
        stored.save(30, state(30))


def test_a_deleted_folder_is_an_error_of_the_system(stored):
    shutil.rmtree(stored.folder.parent)
    with pytest.raises(OSError, match="No such file"):
        stored.save(30, state(30))


def test_a_step_that_is_stored_again_replaces_the_newer_ones(stored):
    stored.save(10, state(11))
    assert stored.steps() == (10,) and stored.restore(state(0))[1]["n"] == 11


def test_every_kind_of_array_comes_back_as_it_was(tmp_path):
    optimizer = optax.chain(
        optax.inject_hyperparams(optax.adam)(learning_rate=0.1), optax.add_noise(0.1, 0.5, 3)
    )
    sharding = jax.sharding.NamedSharding(
        jax.make_mesh((1,), ("data",)), jax.sharding.PartitionSpec("data")
    )
    params = {
        "half": jax.device_put(jnp.arange(4, dtype=jnp.bfloat16), sharding),
        "nothing": jnp.zeros((0, 3)),
        "key": jax.random.key(7),
        "weak": jnp.asarray(0.25),
        "number": 3,
    }
    given = (params, optimizer.init({"w": jnp.ones(3)}))
    states = Checkpoints(tmp_path / "checkpoint")
    states.start()
    states.save(1, given)
    step, restored = states.restore(given)
    assert step == 1 and jax.tree.structure(restored) == jax.tree.structure(given)
    for was, now in zip(jax.tree.leaves(given), jax.tree.leaves(restored), strict=True):
        was = jnp.asarray(was)
        assert (was.dtype, was.shape) == (now.dtype, now.shape)
        assert getattr(was, "weak_type", False) == getattr(now, "weak_type", False)
        assert was.committed == now.committed or not was.size
        if jnp.issubdtype(was.dtype, jax.dtypes.prng_key):
            was, now = jax.random.key_data(was), jax.random.key_data(now)
        assert np.asarray(was).tobytes() == np.asarray(now).tobytes()
    assert restored[0]["half"].sharding == sharding


def test_a_thread_stores_after_steps_or_seconds_and_notes_first(tmp_path):
    states = Checkpoints(tmp_path / "checkpoint")
    noted = []

    def note(step):
        assert step not in (states.steps() if states.folder.exists() else ())
        noted.append(step)

    with CheckpointWriter(states, note, seconds=None, steps=3) as writer:
        for step in range(1, 8):
            if writer.is_due():
                writer.store(step, state(step))
            writer.wait()
    assert noted == [3, 6] and states.steps() == (3, 6)
    with CheckpointWriter(states, note, seconds=1e-9) as writer:
        assert writer.is_due()
    with CheckpointWriter(states, note, seconds=1e9) as writer:
        assert not writer.is_due()


def test_what_the_thread_met_is_raised(tmp_path):
    def note(step):
        raise OSError(errno.ENOSPC, "No space left on device")

    with CheckpointWriter(Checkpoints(tmp_path / "c"), note, seconds=1e-9) as writer:
        writer.store(1, state(1))
        with pytest.raises(OSError, match="No space"):
            writer.wait()
    assert not (tmp_path / "c").exists()


def test_a_folder_that_is_gone_is_an_error_of_the_operating_system(tmp_path, monkeypatch):
    """Which error orbax makes of it depends on when the folder goes."""
    folder = tmp_path / "states"

    def save(*_, **__):
        folder.rename(tmp_path / "moved")
        raise ValueError("Checkpoint directory does not exist")

    checkpoints = Checkpoints(folder)
    checkpoints.start()
    monkeypatch.setattr("orbax.checkpoint.Checkpointer.save", save)
    with pytest.raises(FileNotFoundError, match="No such file"):
        checkpoints.save(1, {"w": jnp.zeros(3)})
