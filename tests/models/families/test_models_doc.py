"""The table of families says what the code has."""

import re
from pathlib import Path

import pytest

from dpjax.models import FAMILIES, TASKS

PAGE = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
# The first table of the page, before its first section.
ROWS = dict(
    re.findall(r"^\| `([\w-]+)` \| ([^|]*) \|", PAGE.partition("\n## ")[0], flags=re.MULTILINE)
)


def test_every_family_is_in_the_table():
    assert list(ROWS) == list(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_names_its_heads(family):
    heads = re.findall(r"`(\w+)`", ROWS[family])
    assert heads == [task for task in TASKS if task in FAMILIES[family].heads]
