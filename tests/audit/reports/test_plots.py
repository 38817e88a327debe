"""The pictures: written as PNG, not blank, without global state."""

import subprocess
import sys

import numpy as np
import pytest

from dpjax.audit import AttackResult, loss_attack, plot_roc, plot_training


def attack(shift, num_members=400, num_nonmembers=300):
    rng = np.random.default_rng(0)
    return loss_attack(rng.normal(-shift, 1, num_members), rng.normal(0, 1, num_nonmembers))


def ink(path):
    """The share of pixels that are not white, and the number of colours."""
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert path.stat().st_size > 10_000
    pixels = imread(path)[..., :3].reshape(-1, 3)
    colours = (255 * pixels).round().astype(int) @ [1, 256, 256**2]
    return np.mean(pixels.min(axis=1) < 0.95), len(np.unique(colours))


def test_roc_with_the_excluded_region(tmp_path):
    plot_roc({"private": attack(0.1)}, tmp_path / "plain.png")
    plot_roc({"private": attack(0.1)}, tmp_path / "shaded.png", epsilon=1.0, delta=1e-5)
    plain, shaded = ink(tmp_path / "plain.png"), ink(tmp_path / "shaded.png")
    assert plain[1] > 20 and shaded[0] > plain[0] + 0.05


@pytest.mark.parametrize(
    "result",
    [
        loss_attack([0.0], [1.0]),
        loss_attack(np.zeros(30), np.ones(50)),
        loss_attack(np.ones(30), np.zeros(50)),
        loss_attack(np.ones(30), np.ones(50)),
        AttackResult.from_dict(attack(1.0).to_dict()),
    ],
    ids=["one record", "perfect", "reversed", "all equal", "read back"],
)
def test_roc_of_degenerate_results(tmp_path, result):
    plot_roc({"run": result}, tmp_path / "roc.png", epsilon=8.0, delta=1e-3)
    assert ink(tmp_path / "roc.png")[1] > 20


def test_more_results_than_colours(tmp_path):
    plot_roc({f"run {i}": attack(i / 4) for i in range(8)}, str(tmp_path / "roc.png"))
    assert ink(tmp_path / "roc.png")[1] > 100


@pytest.mark.parametrize("num_steps", [0, 1, 3, 250])
@pytest.mark.parametrize("private", [False, True])
def test_training(tmp_path, num_steps, private):
    steps = np.arange(1, num_steps + 1)
    options = {"epsilon": 0.1 * np.sqrt(steps), "target_epsilon": 3.0} if private else {}
    plot_training(steps.tolist(), (1 / steps).tolist(), tmp_path / "training.png", **options)
    assert ink(tmp_path / "training.png")[1] > 20


def test_training_without_a_target(tmp_path):
    plot_training([1, 2], [0.7, 0.6], tmp_path / "training.png", epsilon=[0.1, 0.2])
    assert ink(tmp_path / "training.png")[1] > 20


def test_bad_arguments_are_refused_in_words(tmp_path):
    path = tmp_path / "roc.png"
    with pytest.raises(ValueError, match="no attack result"):
        plot_roc({}, path)
    with pytest.raises(ValueError, match="belong together"):
        plot_roc({"run": attack(0.0)}, path, epsilon=1.0)
    with pytest.raises(ValueError, match="loss has 1 values for 2 steps"):
        plot_training([1, 2], [0.5], path)
    with pytest.raises(ValueError, match="epsilon has 1 values for 2 steps"):
        plot_training([1, 2], [0.5, 0.4], path, epsilon=[1.0])
    assert not path.exists()


@pytest.mark.slow
def test_neither_import_nor_drawing_touches_pyplot(tmp_path):
    code = (
        "import sys, dpjax.audit as audit\n"
        "assert 'matplotlib' not in sys.modules\n"
        "audit.plot_training([1, 2], [0.7, 0.6], sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "training.png")], check=True)
