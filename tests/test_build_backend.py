"""The build backend: an isolated build uses the torch that is installed, or says what to do."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

# As pip isolates: the same interpreter, its packages off the path, the build's own on it.
ISOLATED = """
import sys
hidden = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
sys.path[:] = [p for p in sys.path if p not in hidden] + {own!r}
import build_backend
{before}
build_backend.show_torch()
import torch, setuptools
print(torch.__version__, setuptools.__version__, sys.path.index({own!r}[0]) < len(sys.path) - 1)
"""


def isolated(tmp_path, before=""):
    """Run the backend with its own (pretended) setuptools and without the installed packages."""
    package = tmp_path / "own" / "setuptools"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = 'own'\n")
    hooks = ["build_sdist", "build_wheel", "build_editable"]
    hooks += [f"get_requires_for_{hook}" for hook in hooks]
    hooks += ["prepare_metadata_for_build_wheel", "prepare_metadata_for_build_editable"]
    (package / "build_meta.py").write_text("".join(f"{hook} = None\n" for hook in hooks))
    program = ISOLATED.format(own=[str(tmp_path / "own"), str(SCRIPTS)], before=before)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )


def test_finds_the_installed_torch(tmp_path):
    """Torch is found though it is hidden, and shadows nothing that the build brings."""
    done = isolated(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [importlib.metadata.version("torch"), "own", "True"]


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("build_backend.package_folders = lambda: []", "it builds against torch, which"),
        ("build_backend.OLDEST_TORCH = (99, 1)", "it needs torch >= 99.1, found"),
    ],
)
def test_says_what_to_do(tmp_path, before, message):
    """Without a torch to build against: what is wrong, and the commands that put it right."""
    done = isolated(tmp_path, before)
    assert done.returncode == 1
    assert message in done.stderr
    assert "pip install --no-build-isolation ." in done.stderr
    assert "Traceback" not in done.stderr
