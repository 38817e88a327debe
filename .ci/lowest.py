"""Prints the lowest versions that pyproject.toml allows, as pins for pip: every >=X as ==X.

    python .ci/lowest.py [EXTRA ...]

Prints the requirements of the package and of the extras that are named, one a line. It fails if one
has no lower bound, because its lowest version is then unknown.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[(?P<extras>[\w,.-]+)\])?(?P<bound>(>=|==)[\w.]+)?")


def lowest_pins(project: dict, extras: list[str]) -> list[str]:
    """Return `name==version` for each requirement of `project` and of its `extras`.

    Args:
        project: the table [project] of a pyproject.toml.
        extras: names from its optional-dependencies; extras that these name are followed.

    Raises:
        ValueError: if an extra is unknown, or a requirement has no lower bound or more than one.
    """
    optional = project.get("optional-dependencies", {})
    requirements = list(project["dependencies"])
    for extra in extras:
        if extra not in optional:
            raise ValueError(f"extra must be one of {', '.join(optional)}, got {extra!r}.")
        requirements += optional[extra]
    pins: dict[str, None] = {}
    for requirement in requirements:
        found = _REQUIREMENT.fullmatch(requirement.replace(" ", ""))
        if found and found["name"] == project["name"] and found["extras"]:
            own = lowest_pins({**project, "dependencies": []}, found["extras"].split(","))
            pins |= dict.fromkeys(own)
        elif found and found["bound"]:
            marked = f"[{found['extras']}]" if found["extras"] else ""
            pins[f"{found['name']}{marked}=={found['bound'][2:]}"] = None
        else:
            raise ValueError(
                f"a requirement must have the form name>=version, got {requirement!r}. Give it one"
                " lower bound that the tests can be run with."
            )
    return list(pins)


if __name__ == "__main__":
    with PYPROJECT.open("rb") as file:
        print("\n".join(lowest_pins(tomllib.load(file)["project"], sys.argv[1:])))
