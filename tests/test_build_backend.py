"""The build: it uses the torch that is installed, and says what is missing before it compiles."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import polygraph

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = REPOSITORY / "scripts"

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


def isolated(tmp_path, before="", environment=None):
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
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | (environment or {}),
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


def checked(tmp_path, before="", **environment):
    """Run `check_tools` alone; returns its error, or None."""
    done = isolated(tmp_path, before.replace("CHECK", "build_backend.check_tools()"), environment)
    assert "Traceback" not in done.stderr
    return done.stderr if done.returncode else None


@pytest.fixture
def compiler(tmp_path):
    """A function that writes a compiler which says it is that version of g++."""

    def write(version):
        path = tmp_path / f"g++-{version}"
        path.write_text(
            f"#!/bin/sh\nif [ $1 = --version ]; then echo 'g++ (Test) {version}.1.0'; exit; fi\n"
            f'exec c++ -U__GNUC__ -D__GNUC__={version} "$@"\n'
        )
        path.chmod(0o755)
        return str(path)

    return write


def test_compilers(tmp_path, compiler):
    """An old compiler, and none, are refused in one sentence, with what to do."""
    tools = "import sys; sys.modules['setuptools'].__version__ = '80.1'; CHECK"
    assert checked(tmp_path / "a", tools, CXX=compiler(12)) is None
    error = checked(tmp_path / "b", tools, CXX=compiler(10))
    assert "needs g++ 11 or newer, or a clang that reads C++20: found g++ (Test) 10.1.0" in error
    assert "apt-get install g++" in error
    error = checked(tmp_path / "c", tools, CXX="/nowhere/g++")
    assert "needs a C++ compiler, g++ 11 or newer: '/nowhere/g++' was not found" in error


def test_tools(tmp_path):
    """Without ninja or with an old setuptools, which pip does not bring without isolation."""
    ready = "import shutil; sys.modules['setuptools'].__version__ = '80.1';"
    error = checked(tmp_path / "a", f"{ready} shutil.which = lambda name: None; CHECK")
    assert "needs ninja to build, which was not found" in error
    assert "pip install ninja" in error
    error = checked(tmp_path / "b", "sys.modules['setuptools'].__version__ = '68.2.1'; CHECK")
    assert "needs setuptools >= 77.0.3 to build, found 68.2.1" in error
    error = checked(tmp_path / "c", f"{ready} sys.platform = 'darwin'; CHECK")
    assert "it builds on Linux (in WSL too), this is darwin" in error


def test_name_and_version_need_no_torch():
    """Nor a compiler: an sdist is made of files alone."""
    hidden = "import sys; sys.modules['torch'] = None; sys.argv = ['setup.py', *{}]; "
    hidden += "import runpy; runpy.run_path('setup.py')"
    words = ["--name", "--version"]
    done = subprocess.run(
        [sys.executable, "-c", hidden.format(words)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"CXX": "/nowhere/g++"},
    )
    assert done.stdout.split() == ["polygraph-nn", polygraph.__version__], done.stderr


# setup.py beside a torch that is pretended, and with no nvcc but that of $CUDA_HOME.
PRETENDED = """
import pathlib, runpy, shutil, sys, types
from setuptools import Extension
from setuptools.command.build_ext import build_ext
torch = types.ModuleType("torch")
torch.__version__, torch.__file__ = "2.13.0", "/torch/__init__.py"
torch.version = types.SimpleNamespace(cuda={cuda!r})
sys.modules["torch"] = torch
extension = types.SimpleNamespace(BuildExtension=build_ext, CppExtension=Extension)
sys.modules["torch.utils.cpp_extension"] = extension
exists, which = pathlib.Path.exists, shutil.which
pathlib.Path.exists = lambda path: "/usr/local/cuda" not in str(path) and exists(path)
shutil.which = lambda name: None if name == "nvcc" else which(name)
sys.argv = ["setup.py", "build_ext", "--help"]
runpy.run_path("setup.py")
"""


def told(home, cuda, **environment):
    """What setup.py says that it builds, beside a torch with that CUDA."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("POLYGRAPH_")}
    done = subprocess.run(
        [sys.executable, "-c", PRETENDED.format(cuda=cuda)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**kept, "CUDA_HOME": str(home), **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("cuda", "nvcc", "wanted", "words"),
    [
        (None, True, None, "no CUDA library: this torch has no CUDA; POLYGRAPH_CUDA=1 builds it"),
        (None, True, "1", "the CUDA library for sm_75, sm_80, sm_90 with TMP/bin/nvcc"),
        ("13.0", True, None, "the CUDA library for sm_75, sm_80, sm_90 with TMP/bin/nvcc"),
        ("13.0", True, "0", "no CUDA library: POLYGRAPH_CUDA=0"),
        (
            "13.0",
            False,
            None,
            "no CUDA library, though torch has CUDA 13.0: nvcc was found neither",
        ),
        (None, False, "1", "POLYGRAPH_CUDA=1, but nvcc was found neither in $CUDA_HOME/bin nor"),
        (None, True, "yes", "POLYGRAPH_CUDA must be one of auto, 0, 1, only, got 'yes'"),
    ],
)
def test_cuda_is_compiled_where_it_can_be_used(tmp_path, cuda, nvcc, wanted, words):
    """Beside a torch without CUDA it is not, unless asked for; what is done is said."""
    if nvcc:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "nvcc").touch(mode=0o755)
    environment = {} if wanted is None else {"POLYGRAPH_CUDA": wanted}
    assert words.replace("TMP", str(tmp_path)) in told(tmp_path, cuda, **environment)
