"""How the house is built: sizes of files, which way imports point, what is private, what is public.

No rule has exceptions.
"""

import ast
import importlib
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
import torch

import polygraph
import polygraph.ops

REPOSITORY = Path(__file__).resolve().parents[1]
MOST_LINES, MOST_ARGUMENTS = 450, 12
FOLDERS = ("polygraph", "csrc", "tests", "scripts", "benchmarks")
SUFFIXES = {".py", ".cpp", ".h", ".inc", ".cu", ".cuh", ".js", ".css", ".html", ".sh"}

# From below to above: a folder imports from those before it. What lies on the ground floor
# (polygraph/_*.py) is before all of them.
FLOORS = (
    "ops",
    "reference",
    "nn",
    "transforms",
    "mesh",
    "data",
    "metrics",
    "image_metrics",
    "models",
    "analysis",
    "report",
    "train",
    "tasks",
    "cli",
    "__main__",
)


@cache
def modules():
    """Every module of the package by its dotted name: its file and its syntax."""
    found = {}
    for path in sorted((REPOSITORY / "polygraph").rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path, ast.parse(path.read_text())
    return found


def imported(tree):
    """``(module, name or None)`` of all that a file imports from the package, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            if node.module.split(".")[0] == "polygraph":
                yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((a.name, None) for a in node.names if a.name.split(".")[0] == "polygraph")


def target(module, name):
    """The module that an import reaches: a name may be one itself."""
    full = f"{module}.{name}"
    return full if full in modules() else module


def floor(module):
    """The place of a module among `FLOORS`; -1 for the ground floor."""
    parts = module.split(".")
    if len(parts) == 1 or (parts[1].startswith("_") and parts[1] != "__main__"):
        return -1
    return FLOORS.index(parts[1])


def test_files_are_short():
    long = set()
    for folder in FOLDERS:
        for path in (REPOSITORY / folder).rglob("*"):
            name = path.relative_to(REPOSITORY).as_posix()
            if path.suffix in SUFFIXES and "/results/" not in name:
                if len(path.read_text().splitlines()) > MOST_LINES:
                    long.add(name)
    assert long == set(), f"split what is longer than {MOST_LINES} lines"


def importers():
    """All modules but the package itself, which shows every floor and imports none until asked."""
    return {name: tree for name, (_, tree) in modules().items() if name != "polygraph"}


def test_imports_point_down():
    wrong = [
        f"{name} imports {module}"
        for name, tree in importers().items()
        for module in (target(*found) for found in imported(tree))
        if floor(module) > floor(name)
    ]
    assert wrong == []


def test_no_circle_of_modules():
    below = {
        name: {target(*found) for found in imported(tree)} - {name, "polygraph"}
        for name, tree in importers().items()
    }
    while True:
        done = {name for name, wanted in below.items() if not wanted & below.keys()}
        if not done:
            break
        below = {name: wanted for name, wanted in below.items() if name not in done}
    assert below == {}, "these import each other"


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def may_use(own, module, name):
    """Whether the file of module ``own`` (None: outside of the package) may import a name."""
    parts = [*module.split("."), name]
    place = next((n for n, part in enumerate(parts) if is_private(part)), None)
    if place is None:
        return True
    home = ".".join(parts[:place])
    if f"{home}.{parts[place]}" not in modules():
        return False  # not a module: a private name of one
    return home == "polygraph" or own == home or str(own).startswith(f"{home}.")


def private_uses(tree, own):
    """Private names of other modules in a file."""
    aliases = {}
    for module, name in imported(tree):
        if name is not None and not may_use(own, module, name):
            yield f"{module}.{name}"
        if f"{module}.{name}" in modules():
            aliases[name] = f"{module}.{name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if isinstance(node.value, ast.Name) and node.value.id in aliases:
                yield f"{aliases[node.value.id]}.{node.attr}"


def test_private_names_stay_in_their_file():
    """A module ``_name.py`` is for its own folder, one of the ground floor for all."""
    files = [(path, tree, name) for name, (path, tree) in modules().items()]
    for folder in ("scripts", "benchmarks"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            files.append((path, ast.parse(path.read_text()), None))
    used = {
        f"{path.relative_to(REPOSITORY).as_posix()}: {use}"
        for path, tree, own in files
        for use in private_uses(tree, own)
    }
    assert used == set(), "give them public names, or a place that both may use"


def test_schemas_are_short():
    counts = {
        schema.name: len(schema.arguments)
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("polygraph::")
    }
    assert counts
    long = {name for name, count in counts.items() if count > MOST_ARGUMENTS}
    assert long == set(), f"no operator takes more than {MOST_ARGUMENTS} arguments"


def names_in(tree):
    """What a module defines, imports or announces at its top."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            yield from ast.literal_eval(node.value)


def is_there(path):
    """Whether a dotted path names a module, or something in one."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if module in modules():
            return end == len(parts) or parts[end] in names_in(modules()[module][1])
    return False


def test_dotted_names_in_words_lead_somewhere():
    """Documents, docstrings and messages name modules by where they are."""
    texts = [path for path, _ in modules().values()]
    for folder in (".", "docs", "datasets", "benchmarks"):
        texts += (REPOSITORY / folder).glob("*.md")
    lost = {
        f"{path.relative_to(REPOSITORY).as_posix()}: {name}"
        for path in texts
        for name in re.findall(
            r"(?<![\w./-])polygraph(?:\.[A-Za-z]\w*)+(?![\w/])", path.read_text()
        )
        if not is_there(name)
    }
    assert lost == set()


def promised():
    """Names in the README's table of packages, with the package that they are promised of."""
    packages, found = [], defaultdict(set)
    for row in re.findall(
        r"^\|(.*)\|(.*)\|$", (REPOSITORY / "README.md").read_text(), re.MULTILINE
    ):
        named = re.findall(r"`polygraph\.([a-z_]+)`", row[0])
        packages = named or (packages if not row[0].strip() else [])
        for package in packages:
            found[f"polygraph.{package}"] |= set(re.findall(r"`([A-Za-z_]\w*)`", row[1]))
    return dict(found)


@pytest.mark.parametrize("package", sorted(promised()))
def test_public_names_are_where_the_readme_says(package):
    names = promised()[package] - {"state_dict"}
    assert names <= set(getattr(importlib.import_module(package), "__all__", ()))


def test_dotted_names_in_the_readme_are_attributes():
    """So that `import polygraph` is enough to use them."""
    text = (REPOSITORY / "README.md").read_text()
    for name in set(re.findall(r"(?<![\w./-])polygraph(?:\.[A-Za-z]\w*)+(?![\w/])", text)):
        found = polygraph
        for part in name.split(".")[1:]:
            found = getattr(found, part)


@pytest.mark.parametrize("package", sorted(polygraph.__all__))
def test_public_names_are_there(package):
    module = getattr(polygraph, package)
    names = list(getattr(module, "__all__", ()))
    assert names == sorted(set(names), key=lambda name: (not name.isupper(), name.islower(), name))
    assert {name for name in names if not hasattr(module, name)} == set()
    assert set(names) <= set(dir(module))
