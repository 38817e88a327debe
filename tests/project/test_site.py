"""The site has every page of the documentation, and builds without a warning."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# BaseLoader builds no objects: it takes the tags of Python for what they stand on.
NAV = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)["nav"]

_SPEC = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
site_hooks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(site_hooks)
ENTRIES = site_hooks.entries(NAV)


def test_every_page_and_every_notebook_is_in_the_navigation():
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert len(ENTRIES) == len(set(ENTRIES))
    assert pages | notebooks <= set(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_of_the_navigation_exists(entry):
    if entry.startswith("api/"):
        assert importlib.util.find_spec(Path(entry).stem) is not None
    else:
        files = (DOCS / entry, ROOT / entry, (ROOT / entry).with_suffix(".ipynb"))
        assert any(file.is_file() for file in files)


def rewritten(markdown, repo_url=None):
    pages = {
        DOCS / "clipping.md": "clipping.md",
        ROOT / "benchmarks/README.md": "benchmarks/README.md",
    }
    source = DOCS / "guide" / "runs.md"
    return site_hooks.rewrite_links(markdown, source, "guide/runs.md", pages, repo_url)


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("[a](../clipping.md#rules)", "[a](../clipping.md#rules)"),
        ("[`a`](../../benchmarks/README.md)", "[`a`](../benchmarks/README.md)"),
        ("[loop](../../dpjax/training/loop.py)", "loop (`dpjax/training/loop.py`)"),
        ("[training/loop.py](../../dpjax/training/loop.py)", "`dpjax/training/loop.py`"),
        ("[a](https://example.org/../x)", "[a](https://example.org/../x)"),
        ("[a](#rules)", "[a](#rules)"),
        ("`[a](../../README.md)`", "`[a](../../README.md)`"),
        ("```\n[a](../../README.md)\n```", "```\n[a](../../README.md)\n```"),
    ],
)
def test_links_lead_to_pages_and_name_the_files_that_are_none(markdown, expected):
    assert rewritten(markdown) == expected


def test_links_to_files_lead_to_the_repository_where_it_has_an_address():
    expected = "[loop](https://example.org/dpjax/blob/main/dpjax/training/loop.py#L1)"
    markdown = "[loop](../../dpjax/training/loop.py#L1)"
    assert rewritten(markdown, "https://example.org/dpjax/") == expected


@pytest.mark.parametrize("target", ["nowhere.md", "../../../outside.md"])
def test_a_link_to_nothing_is_a_warning(target, caplog):
    assert rewritten(f"[a]({target})") == f"[a]({target})"
    assert f"guide/runs.md links to {target}, which does not exist" in caplog.text


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "api" / "dpjax.privatize" / "index.html").read_text(encoding="utf-8")
    # Examples are code, with what they print.
    assert "clip_norm" in api and "&gt;&gt;&gt; " in api
    assert "<img" in (tmp_path / "notebooks/choosing_epsilon/index.html").read_text("utf-8")
    architecture = (tmp_path / "architecture" / "index.html").read_text(encoding="utf-8")
    assert "<code>dpjax/training/loop.py</code>" in architecture
