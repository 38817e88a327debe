"""What the site is made of beside the pages in docs/, and where links out of docs/ lead.

mkdocs calls these functions (mkdocs.yml). Pages can be read as files of the repository too. Their
links are looked up there, and lead to a page of the site, or to the file in the repository if
mkdocs.yml has a `repo_url`. Without one the file is named instead of linked. A link to nothing is a
warning, which ends the build.
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import File, Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# The folder of the site in which each module has a page of its public names.
API = "api"
# Code comes first where it opens first, and is left alone.
_LINK = re.compile(
    r"^( *)```.*?^\1```$"
    r"|(?<!!)\[(?P<text>(?:[^\]`]|`[^`\n]+`)*)\]\((?P<target>[^)\s]+)\)"
    r"|`[^`\n]+`",
    flags=re.MULTILINE | re.DOTALL,
)
_LOG = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the entries of the navigation that are not files of docs/."""
    from mkdocs.structure.files import File

    for entry in entries(config.nav):
        if files.get_file_from_path(entry) is not None:
            continue
        source = ROOT / entry
        if entry.startswith(f"{API}/"):
            module = source.stem
            page = File.generated(config, entry, content=f"# {module}\n\n::: {module}\n")
        elif (notebook := source.with_suffix(".ipynb")).is_file():
            page = File.generated(config, entry, content=notebook_page(notebook))
        else:
            page = File.generated(config, entry, abs_src_path=str(source))
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns the page with links that lead somewhere on the site."""
    pages = {source_of(file): file.src_uri for file in files if not file.inclusion.is_excluded()}
    source = source_of(page.file)
    return rewrite_links(markdown, source, page.file.src_uri, pages, config.repo_url)


def source_of(file: File) -> Path:
    """Returns the file of the repository that a file of the site shows."""
    if file.abs_src_path is not None:
        return Path(file.abs_src_path).resolve()
    return (ROOT / file.src_uri).with_suffix(".ipynb")


def notebook_page(notebook: Path) -> str:
    """Returns a notebook as Markdown: its text, its code, what was printed and drawn."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            else:
                parts.append(f"![](data:image/png;base64,{output['data']['image/png']})")
    return "\n\n".join(parts) + "\n"


def rewrite_links(
    markdown: str, source: Path, source_uri: str, pages: dict[Path, str], repo_url: str | None
) -> str:
    """Returns the text with each relative link as the site needs it; code stays as it is.

    Args:
        markdown: of one page.
        source: the file of the page, from which links are looked up.
        source_uri: its path on the site.
        pages: the file of each page, and its path on the site.
        repo_url: the address of the repository; None if it has none.
    """
    folder = os.path.dirname(source_uri)

    def rewrite(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        path, mark, anchor = (target or "").partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        file = (source.parent / path).resolve()
        if file in pages:
            return f"[{text}]({os.path.relpath(pages[file], folder or '.')}{mark}{anchor})"
        if not file.exists() or not file.is_relative_to(ROOT):
            _LOG.warning("%s links to %s, which does not exist", source_uri, target)
            return match[0]
        name = file.relative_to(ROOT).as_posix()
        if repo_url:
            return f"[{text}]({repo_url.rstrip('/')}/blob/main/{name}{mark}{anchor})"
        return f"`{name}`" if name.endswith(text.strip("`")) else f"{text} (`{name}`)"

    return _LINK.sub(rewrite, markdown)


def entries(nav: object) -> list[str]:
    """Returns the paths in a navigation of nested lists and mappings, in order."""
    if isinstance(nav, str):
        return [nav]
    if isinstance(nav, dict):
        return [entry for value in nav.values() for entry in entries(value)]
    if isinstance(nav, list):
        return [entry for value in nav for entry in entries(value)]
    return []
