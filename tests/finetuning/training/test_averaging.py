"""`training.ema_decay`: what is exported is the average of the parameters, also after a resume."""

import copy

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import dpjax
from dpjax.finetuning.training import loop


def exported(result):
    return load_file(result.output_dir / "model" / "model.safetensors")


@pytest.fixture
def averaged(cheap_options, tmp_path):
    options = copy.deepcopy(cheap_options) | {"output_dir": tmp_path / "averaged"}
    options["training"]["ema_decay"] = 0.6
    return options


def test_the_average_is_exported_and_training_does_not_notice(averaged, whole, monkeypatch):
    seen, run_steps = [], loop.run_steps

    def watched(*arguments, **options):
        for done in run_steps(*arguments, **options):
            seen.append(jax.tree.leaves(jax.tree.map(np.array, done.params)))
            yield done

    monkeypatch.setattr(loop, "run_steps", watched)
    result = dpjax.finetune(**averaged)
    assert [row["loss"] for row in result.metrics] == [row["loss"] for row in whole.metrics]
    assert result.epsilon == whole.epsilon
    weights = 0.6 ** np.arange(len(seen))[::-1]
    means = [
        np.tensordot(weights / weights.sum(), np.stack(leaf), 1) for leaf in zip(*seen, strict=True)
    ]
    last, found = exported(whole), exported(result)
    changed = [name for name in last if not np.array_equal(last[name], found[name])]
    assert len(changed) == len(means) > 0
    for name in changed:
        fits = [
            np.allclose(array, mean, rtol=1e-5, atol=1e-7)
            for mean in means
            for array in (found[name], found[name].T)
            if array.shape == mean.shape
        ]
        assert any(fits), name


@pytest.mark.slow
def test_a_resumed_run_exports_the_same_average(averaged, stop_after, tmp_path):
    other = averaged | {"output_dir": tmp_path / "whole"}
    expected = exported(dpjax.finetune(**other))
    stop_after(2, **averaged)
    changed = copy.deepcopy(averaged)
    changed["training"]["ema_decay"] = 0.7
    with pytest.raises(ValueError, match=r"cannot resume.*training"):
        dpjax.finetune(**changed, resume=True)
    found = exported(dpjax.finetune(**averaged, resume=True))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
def test_bad_decays(decay):
    with pytest.raises(ValueError, match=r"training\.ema_decay must be above 0 and below 1, got"):
        dpjax.Training(ema_decay=decay)
