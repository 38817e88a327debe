"""A document of headings, prose, lists and tables, as Markdown or as one HTML page."""

from __future__ import annotations

import base64
import dataclasses
import html
import re
from collections.abc import Mapping, Sequence

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
h1 { font-size: 1.7rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid #ddd; overflow-wrap: anywhere }
.warning { border-left: .3rem solid #d55e00; background: #fdf0e6; padding: .6rem 1rem }
figure { margin: 1rem 0 } img { max-width: 100% } figcaption { color: #595959 }
"""


@dataclasses.dataclass(frozen=True)
class Heading:
    """Of the document (level 1) or of a section (level 2)."""

    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Prose; a warning stands out."""

    text: str
    warning: bool = False


@dataclasses.dataclass(frozen=True)
class Bullets:
    """Sentences that stand on their own."""

    lines: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of as many cells as the header has."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = Heading | Paragraph | Bullets | Table


def markdown_document(blocks: Sequence[Block]) -> str:
    """Returns the blocks as Markdown."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def html_document(
    blocks: Sequence[Block], *, title: str, pictures: Mapping[str, bytes] | None = None
) -> str:
    """Returns the blocks as an HTML page that needs no other file.

    Args:
        blocks: in their order.
        title: of the page.
        pictures: PNG files, by caption, to stand at the end.
    """
    parts = [_html(block) for block in blocks]
    for caption, png in ({} if pictures is None else pictures).items():
        data = base64.b64encode(png).decode()
        text = html.escape(caption)
        image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
        parts.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_quoted(text)}"
        case Paragraph(text, warning):
            return f"> **Warning.** {_quoted(text)}" if warning else _quoted(text)
        case Bullets(lines):
            return "\n".join(f"- {_quoted(line)}" for line in lines)
        case Table(header, rows):
            cells = [tuple(map(_quoted, row)) for row in (header, *rows)]
            cells.insert(1, ("---",) * len(header))
            return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _quoted(text: str) -> str:
    """Text that Markdown and the HTML in it leave as it is."""
    return re.sub(r"([\\*_<>|\[\]#])", r"\\\1", " ".join(text.split())).replace("&", "&amp;")


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text, warning):
            opening = '<p class="warning"><strong>Warning.</strong> ' if warning else "<p>"
            return f"{opening}{html.escape(text)}</p>"
        case Bullets(lines):
            items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
            return f"<ul>{items}</ul>"
        case Table(header, rows):
            titles = "".join(f"<th>{html.escape(title)}</th>" for title in header)
            body = "".join(_html_row(row) for row in rows)
            return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _html_row(row: tuple[str, ...]) -> str:
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
