"""A report in words: everything said, everything quoted."""

import html.parser
import re

from dpjax_accounting import render_html, render_markdown
from dpjax_accounting.cli import main


class Texts(html.parser.HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_both_renderings_say_the_same(report):
    markdown, page = render_markdown(report), Texts(render_html(report)).text
    plain = markdown.replace("\\", "")
    for words in (
        "What is promised",
        "is at most",
        "cannot tell well",
        "differ by one record more or less",
        "What the promise does not cover",
        "The metrics.",
        "Tuning",
        "not covered",
        "No ledger was kept",
        "dpjax_accounting verify privacy.json",
        f"{report['guarantee']['epsilon']:.6g}",
    ):
        assert words in plain and words in page
    assert "Warning" not in plain


def test_bounds_are_never_rounded_down(report):
    report["guarantee"] |= {"epsilon": 1.2341, "largest_advantage": 0.20001}
    markdown = render_markdown(report)
    assert "ε = 1.24 at" in markdown and "right in at most 60.1 %" in markdown
    assert re.search(r"at most 3\.44 times", markdown)


def test_warnings_come_first(unfinished):
    unfinished["warnings"] = ["Beware."]
    lines = [line for line in render_markdown(unfinished).splitlines() if line]
    assert lines[1] == "> **Warning.** Beware." and "unfinished" in lines[2]
    assert Texts(render_html(unfinished)).text.count("Warning.") == 2


def test_what_others_wrote_is_quoted(report):
    evil = "<script>alert('x')</script> | *a* [b](c) & \n# d"
    report["run"]["base_model"] = report["data_uses"][0]["use"] = evil
    report["warnings"] = [evil]
    page = Texts(render_html(report, {evil: b"\x89PNG"}))
    assert "script" not in page.tags and evil in page.text
    markdown = render_markdown(report)
    assert "<script" not in markdown.replace("\\<", "") and "\n# d" not in markdown
    for line in markdown.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4)


def test_a_run_without_privacy_promises_nothing(report):
    report |= {"private": False, "warnings": []}
    report |= dict.fromkeys(("guarantee", "mechanism", "accountant", "implementation"))
    markdown = render_markdown(report)
    assert "WITHOUT privacy" in markdown and "What is promised" not in markdown


def test_show_command(report, tmp_path, capsys):
    import json

    path, page = tmp_path / "privacy.json", tmp_path / "page.html"
    path.write_text(json.dumps(report))
    assert main(["show", str(path)]) == 0
    assert capsys.readouterr().out.startswith("# Privacy report")
    assert main(["show", str(path), "--html", str(page)]) == 0
    assert Texts(page.read_text()).tags.count("img") == 2
    del report["guarantee"]
    path.write_text(json.dumps(report))
    assert main(["show", str(path)]) == 2
    assert "guarantee is missing" in capsys.readouterr().err


def test_the_software_and_the_machine_are_named(report):
    text = render_markdown(report)
    assert "| Git commit | unknown |" in text
    assert "| Devices | 1 × TPU v5e |" in text
    report["environment"] |= {"git_commit": "0123abc", "uncommitted_changes": True}
    text = render_markdown(report)
    assert "| Git commit | 0123abc |" in text
    assert "| Uncommitted changes | yes |" in text
