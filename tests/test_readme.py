"""What README and the documentation promise: examples run, links lead somewhere, flags exist."""

import contextlib
import functools
import importlib
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.children import finish
from support.pages import run_program

from polygraph.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "docs" / "howto").glob("*.md")),
    *sorted((REPOSITORY / "docs" / "design").glob("*.md")),
    *sorted((REPOSITORY / "docs" / "api").glob("*.md")),
]
NAMES = [page.relative_to(REPOSITORY).as_posix() for page in PAGES]
LENGTH = 130  # lines of README


def blocks(page, language):
    """The code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


WITH_TESTS = {"README.md", "docs/pytorch.md", "docs/training.md"}  # of their own
WITH_PYTHON = [name for name, page in zip(NAMES, PAGES, strict=True) if blocks(page, "python")]


@pytest.mark.parametrize("name", [name for name in WITH_PYTHON if name not in WITH_TESTS])
def test_python_runs(name, tmp_path):
    """The Python of a page runs as it stands, its blocks in order."""
    for extra in ("scipy", "lightning_fabric", "jsonargparse"):
        pytest.importorskip(extra)
    path = tmp_path / "example.py"
    path.write_text("\n".join(blocks(REPOSITORY / name, "python")))
    finish(run_program, path, output=tmp_path / "printed")


@pytest.mark.parametrize("number", range(3))
def test_python_of_readme_runs(number, tmp_path):
    """Each block alone; the first in an interpreter of its own."""
    for extra in ("scipy", "lightning_fabric", "jsonargparse"):
        pytest.importorskip(extra)
    path = tmp_path / "example.py"
    path.write_text(blocks(REPOSITORY / "README.md", "python")[number])
    if number:
        return finish(run_program, path, output=tmp_path / "printed")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(path)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return None


def test_readme_is_short():
    """One screen for the start: the whole page, and each of its three examples."""
    assert len(README.splitlines()) <= LENGTH
    examples = blocks(REPOSITORY / "README.md", "python")
    assert len(examples) == 3
    assert [e for e in examples if len([x for x in e.splitlines() if x]) > 12] == []


@pytest.mark.filterwarnings("error::UserWarning")
def test_examples_of_pytorch_page():
    """The examples of docs/pytorch.md give what they say."""
    names = {}
    for example in blocks(REPOSITORY / "docs" / "pytorch.md", "python"):
        exec(example, names)
    assert {tuple(g.shape[:1]) for g in names["per_sample"].values()} == {(8,)}
    assert names["curvature"].shape == (20, 3, 20, 3)
    assert names["slope"].shape == ()
    assert names["shape"] == (20, 4)


@pytest.mark.filterwarnings("error::UserWarning")
def test_example_of_training_page(tmp_path, monkeypatch):
    """The classifier of docs/training.md learns."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in blocks(REPOSITORY / "docs" / "training.md", "python"):
        exec(example, names)
    assert names["accuracy"] > 0.3  # a guess is right in 0.1
    assert (Path(names["folder"]) / "best.safetensors").is_file()


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE):
        text = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", ""))
        found.add(text.replace(" ", "-"))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    """Every relative link and picture names a file that is here, and a heading of it."""
    page = REPOSITORY / name
    lost = []
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(#[^)\s]*)?\)", page.read_text()):
        path = page.parent / target if target else page
        if target.startswith("/") or not path.exists():
            lost.append(target)
        elif anchor and path.suffix == ".md" and anchor[1:] not in anchors(path):
            lost.append(target + anchor)
    assert lost == []


def test_make_targets_exist():
    """Every `make` command in the documents is a target of the Makefile."""
    makefile = (REPOSITORY / "Makefile").read_text()
    text = "\n".join(page.read_text() for page in PAGES)
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test", "docs"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


def commands():
    """Each polygraph command of the pages: its words, without redirections and comments."""
    found = {}
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if "polygraph" in words[:6] and "pip" not in words:
                    found[" ".join(words[words.index("polygraph") + 1 :])] = None
    return list(found)


@functools.cache
def flags_of(command):
    """The flags that a command's two helps name: the short one has words for groups of settings."""
    found = set()
    for word in ("--help-all", "--help"):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
                main([*command, word])
        found |= set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", said.getvalue()))
    assert found, command
    return found


@pytest.mark.parametrize("line", commands())
def test_flags_exist(line):
    """Every flag of a command in the pages is one that the command knows."""
    pytest.importorskip("jsonargparse")
    words = line.split()
    sub = {"train": 2, "benchmark": 2, "latent": 2}.get(words[0], 1)
    command = tuple(words[:sub])
    flags = [word.split("=")[0].replace("_", "-") for word in words[sub:] if word.startswith("--")]
    known = {flag.replace("_", "-") for flag in flags_of(command)} | {"--help"}
    assert [flag for flag in flags if flag not in known] == []


def documented():
    """Module -> the names that the API pages have of it."""
    found = {}
    for page in (REPOSITORY / "docs" / "api").glob("*.md"):
        for module, names in re.findall(
            r"^```\{api\} (\S+)\n(.*?)^```", page.read_text(), re.S | re.M
        ):
            found.setdefault(module, set()).update(names.split())
    return found


# Constants, types for annotations, and PyG's older name of NNConv.
LEFT_OUT = {
    "ABLATIONS",
    "ACTIVATIONS",
    "LAYOUTS",
    "NORMS",
    "ECConv",
    "OUTLIER",
    "Floats",
    "PRESETS",
}


@pytest.mark.parametrize("module", sorted(documented()))
def test_api_pages_have_every_name(module):
    """What a package exports is on its page, and what is on a page exists."""
    names = documented()[module]
    package = importlib.import_module(module)
    assert {name for name in names if not hasattr(package, name)} == set()
    if module.count(".") == 1:
        exported = set(getattr(package, "__all__", ())) - LEFT_OUT
        packages = {name for name in exported if inspect.ismodule(getattr(package, name))}
        assert exported - packages - names == set()
