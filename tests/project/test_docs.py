"""Links in Markdown lead somewhere, and the options page says what the code says."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from dpjax.cli.main import _parse

ROOT = Path(__file__).parents[2]
FOLDERS = ("accounting", "benchmarks", "docs", "dpjax", "notebooks", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))])
_CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`", flags=re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SHELL = re.compile(r"^ *```sh\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", flags=re.MULTILINE)


def links(page):
    targets = _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page):
    """As GitHub makes them from headings."""
    headings = _HEADING.findall(re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S))
    return [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.relative_to(ROOT)} links to {target}, which does not exist"
        assert file.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(file), f"{file.relative_to(ROOT)} has no heading #{anchor}"


def test_links_are_found():
    assert "CONTRIBUTING.md" in {page.name for page in PAGES}
    assert "../dpjax/privatize/randomness/noise.py" in links(ROOT / "docs" / "architecture.md")


def test_a_batch_is_followed_through_at_most_seven_files():
    text = (ROOT / "docs" / "architecture.md").read_text()
    walk = text.split("## One batch", 1)[1]
    files = {target for target in _LINK.findall(walk) if target.endswith(".py")}
    assert 0 < len(files) <= 7


def test_the_options_page_is_up_to_date(monkeypatch):
    spec = importlib.util.spec_from_file_location("make_options", ROOT / "docs/make_options.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_options", module)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.options_page(), "run python docs/make_options.py"


def commands(page):
    """Those of dpjax that are given in full, as lists of words."""
    blocks = " ".join(_SHELL.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in blocks.splitlines()]
    return [line[1:] for line in words if line[:1] == ["dpjax"] and "..." not in line]


def test_options_of_the_commands_in_the_documentation_exist():
    shown = [(page, command) for page in PAGES for command in commands(page)]
    assert len(shown) > 10
    for page, command in shown:
        try:
            _parse(command)
        except SystemExit as error:
            assert not error.code, f"{page.relative_to(ROOT)} shows a command that is refused"
