"""`dpjax audit` from the command line: exit status, JSON, and three mistakes."""

import json

import numpy as np
import pytest

from dpjax.cli.main import main


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    rng = np.random.default_rng(0)
    included = rng.random(300) < 0.5
    scores = rng.normal(size=300) + 3.0 * included
    for name, chosen in (("in", included), ("out", ~included)):
        rows = "".join(f"c{i},{scores[i]}\n" for i in np.flatnonzero(chosen))
        (folder / f"{name}.csv").write_text(f"id,score\n{rows}")
    return ["--members", str(folder / "in.csv"), "--non-members", str(folder / "out.csv")]


def test_a_refuted_claim_is_status_one_and_its_report_verifies(files, tmp_path, capsys):
    path = tmp_path / "audit.json"
    claim = ["--delta", "1e-5", "--claimed-epsilon", "0.5"]
    assert main(["audit", "scores", *files, *claim, "--json", "--output", str(path)]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(path.read_text())
    assert printed["verdict"]["conclusion"] == "violation" and printed["certified"]["epsilon"] > 0.5
    assert main(["audit", "verify", str(path)]) == 0
    page = tmp_path / "page.html"
    assert main(["audit", "show", str(path), "--html", str(page)]) == 0
    assert page.read_text() == path.with_suffix(".html").read_text()
    path.write_text(path.read_text().replace("violation", "consistent"))
    assert main(["audit", "verify", str(path)]) == 1
    assert "the hash does not fit" in capsys.readouterr().out


def test_audits_stand_side_by_side(files, tmp_path, capsys):
    paths = [tmp_path / name / "audit.json" for name in ("tight", "loose")]
    for path, epsilon in zip(paths, ("0.5", "50"), strict=True):
        path.parent.mkdir()
        claim = ["--delta", "1e-5", "--claimed-epsilon", epsilon, "--output", str(path)]
        main(["audit", "scores", *files, *claim])
    capsys.readouterr()
    assert main(["audit", "show", *map(str, paths)]) == 0
    printed = capsys.readouterr().out
    assert "|  | tight | loose |" in printed and "| claimed ε | 0.5 | 50 |" in printed
    page = tmp_path / "page.html"
    assert main(["audit", "show", *map(str, paths), "--html", str(page)]) == 0
    assert page.read_text().count("data:image/png;base64,") == 3
    assert main(["audit", "show", str(paths[0]), str(paths[0].parent / ".." / "tight/audit.json")])
    assert "folders of different names" in capsys.readouterr().err


@pytest.mark.slow
def test_the_claim_may_come_from_a_privacy_report(files, tmp_path, capsys):
    from dpjax_accounting import DPSGD

    mechanism = DPSGD(num_units=2000, expected_batch_size=200, noise_multiplier=2.0, num_steps=20)
    privacy = {
        "private": True,
        "mechanism": mechanism.to_dict(),
        "guarantee": {"epsilon": mechanism.epsilon(1e-5), "delta": 1e-5},
    }
    path = tmp_path / "privacy.json"
    path.write_text(json.dumps(privacy))
    assert main(["audit", "scores", *files, "--privacy-report", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["mechanism"] == mechanism.to_dict()
    assert report["model_based"]["epsilon"] > report["claimed_epsilon"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--delta is missing"),
        (["--delta", "2"], "delta"),
        (["--delta", "1e-5", "--privacy-report", "privacy.json"], "leave out --delta"),
        (["--delta", "1e-5", "--manifest", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_status_two(files, capsys, arguments, message):
    assert main(["audit", "scores", *files, *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dpjax: error:") and message in said and said.count("\n") == 1
