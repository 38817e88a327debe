"""A privacy report as Markdown or as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpjax_accounting.report.document import html_document, markdown_document
from dpjax_accounting.report.words import in_words


def render_markdown(report: Mapping[str, Any]) -> str:
    """Returns a report that fits the schema as Markdown."""
    return markdown_document(in_words(report))


def render_html(report: Mapping[str, Any], pictures: Mapping[str, bytes] | None = None) -> str:
    """Returns a report that fits the schema as an HTML page that needs no other file.

    Args:
        report: as read from privacy.json.
        pictures: PNG files, by caption, to stand at the end.
    """
    return html_document(in_words(report), title="Privacy report", pictures=pictures)
