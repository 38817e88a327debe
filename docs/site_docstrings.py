"""Docstrings as mkdocstrings reads them: it knows a section `Examples`, and no roles of Sphinx."""

from __future__ import annotations

import re

import griffe


class ProjectDocstrings(griffe.Extension):
    """Renames the section `Example`, and leaves of :func:`name` the name."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Changes the docstring of what griffe has read."""
        if obj.docstring is not None:
            value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = re.sub(r":[a-z]+:(`[^`]+`)", r"\1", value)
