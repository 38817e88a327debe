"""What the packages import of each other: no circles, faces only, rooms that can be surveyed."""

from __future__ import annotations

import ast
import collections
import functools
import importlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"dpjax": ROOT / "dpjax", "dpjax_accounting": ROOT / "accounting" / "dpjax_accounting"}
# Rooms whose face is all that other rooms may import.
FACES = {"dpjax_accounting"}
FACES |= {
    f"dpjax.{room}"
    for room in (
        "data",
        "models",
        "privatize",
        "training",
        "audit",
        "demo",
        "finetuning",
        "synthesis",
        "federated",
        "unlearning",
    )
}
MOST_ENTRIES, MOST_LINES = 12, 400


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of both packages by its dotted name; a package by that of its folder."""
    found = {}
    for folder in PACKAGES.values():
        for path in folder.rglob("*.py"):
            name = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


@functools.cache
def exported(module: str) -> frozenset[str]:
    """The names in a module's `__all__`."""
    for node in ast.parse(modules()[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


@functools.cache
def imports(module: str) -> frozenset[str]:
    """The modules of both packages that one imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for name in {alias.name for alias in node.names}:
                inner = f"{node.module}.{name}"
                # A module that the face exports comes from the face.
                is_inner = inner in modules() and name not in exported(node.module)
                found.add(inner if is_inner else node.module)
    return frozenset(found & modules().keys() - {module})


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes that lie on circles or lead to one; empty if there is no circle."""
    left = {node: set(others) for node, others in graph.items()}
    while ends := {node for node in left if not left[node] & left.keys()}:
        left = {node: others for node, others in left.items() if node not in ends}
    return sorted(left)


def test_modules_import_in_no_circle():
    assert circle({module: set(imports(module)) for module in modules()}) == []


@pytest.mark.parametrize("package", sorted(m for m, p in modules().items() if p.stem == "__init__"))
def test_rooms_import_in_no_circle(package):
    inside = f"{package}."
    graph = collections.defaultdict(set)
    for module in modules():
        if module.startswith(inside):
            room = module.removeprefix(inside).split(".")[0]
            others = (m.removeprefix(inside).split(".")[0] for m in imports(module) if inside in m)
            graph[room] |= set(others) - {room}
    assert circle(graph) == []


@pytest.mark.parametrize("room", sorted(FACES))
def test_only_the_face_of_a_room_is_imported_elsewhere(room):
    inner = {name for name in modules() if name.startswith(f"{room}.")}
    outside = modules().keys() - inner - {room}
    assert {module: imports(module) & inner for module in outside if imports(module) & inner} == {}


def test_files_are_short():
    lengths = {
        module: len(path.read_text(encoding="utf-8").splitlines())
        for module, path in modules().items()
    }
    assert {module: count for module, count in lengths.items() if count > MOST_LINES} == {}


def test_folders_can_be_surveyed():
    rooms = collections.defaultdict(set)
    for module in modules():
        room, _, entry = module.rpartition(".")
        rooms[room] |= {entry} - {"__main__"}
    assert {room for room, entries in rooms.items() if len(entries) > MOST_ENTRIES} == set()


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda p: p.stem)
def test_benchmarks_import_what_exists(path):
    # No test runs them: a name that has moved would be noticed by the next who measures.
    missing = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in PACKAGES
        for alias in node.names
        if not hasattr(importlib.import_module(node.module), alias.name)
        # A package has a module of its own as an attribute once somebody has imported it.
        and not importlib.util.find_spec(f"{node.module}.{alias.name}")
    ]
    assert missing == []


def test_circles_are_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
