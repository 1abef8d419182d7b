"""What is said of the package, in its metadata and in hints, agrees with itself."""

import importlib.util
import re
from pathlib import Path

import pytest

import polygraph
from polygraph.cli.doctor import EXTRAS

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
EXTRA = PROJECT["project"]["optional-dependencies"]


def name(requirement):
    """The package that a requirement is about, in its normal form."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def documents():
    """The files that people read, and the code that prints hints."""
    for folder, suffix in (
        ("polygraph", "py"),
        ("docs", "md"),
        ("examples", "py"),
        ("tests", "py"),
    ):
        yield from (REPOSITORY / folder).rglob(f"*.{suffix}")
    yield from REPOSITORY.glob("*.md")


def test_hints_name_the_distribution_and_its_extras():
    """`polygraph` on the package index is another project's."""
    found = set()
    for path in documents():
        text = path.read_text().replace("\\", "")
        for package, extras in re.findall(r"pip install '?\"?(polygraph[\w-]*)\[([^]]*)\]", text):
            assert package == PROJECT["project"]["name"] == "polygraph-nn", path
            found |= set(extras.split(","))
        assert not re.search(r"pip install '?polygraph(?![\w-])", text), path
    assert {"mesh", "train", "report", "open3d"} <= found
    assert found - set(EXTRA) - {"{extra}", "EXTRA"} == set()


def test_doctor_knows_what_the_extras_bring():
    """The same packages as pyproject.toml."""
    for extra, packages in EXTRAS.items():
        assert sorted(packages.values()) == sorted(map(name, EXTRA[extra])), extra


def test_everything_has_a_pinned_version():
    """What `make` installs is what was tested; open3d is nobody's dependency here."""
    pins = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = {name(line) for line in pins if "==" in line}
    wanted = set(map(name, PROJECT["project"]["dependencies"]))
    wanted |= {name(r) for extra, rs in EXTRA.items() if extra != "open3d" for r in rs}
    assert wanted - pinned == set()


def test_one_version():
    """Setuptools reads the package's; CITATION.cff and the changelog repeat it."""
    citation = (REPOSITORY / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == polygraph.__version__
    dynamic = PROJECT["tool"]["setuptools"]["dynamic"]["version"]
    assert dynamic == {"attr": "polygraph.__version__"}
    assert f"## {polygraph.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_types_are_shipped():
    """The marker is there, and goes into the wheel."""
    assert (REPOSITORY / "polygraph" / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["polygraph"]


def test_every_file_of_the_package_goes_into_the_wheel():
    """What is neither a module nor package data would be missing once installed."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["polygraph"]
    package = REPOSITORY / "polygraph"
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    others = {p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    others = {p for p in others if p.suffix not in (".py", ".so")}
    assert others - shipped == set()


def test_index_description():
    """What an index shows has no link into the repository; addresses stay."""
    spec = importlib.util.spec_from_file_location(
        "backend", REPOSITORY / "scripts/build_backend.py"
    )
    backend = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(backend)
    text = backend.index_description((REPOSITORY / "README.md").read_text())
    assert text.startswith("# polygraph\n")
    assert "## Install" in text
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []
    assert "`polygraph.ops` | `knn`" in text  # links have become their words
    assert backend.index_description("[a](https://a.org) [b](b.md)") == "[a](https://a.org) b"
