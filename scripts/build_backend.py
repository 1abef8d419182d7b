"""PEP 517 backend: setuptools, with the torch that is installed already, and checks before it.

A front end builds in an environment of its own, without the packages that the user has. polygraph
builds against torch; fetching it anew would take gigabytes, and might give another build of it than
the user runs. pip's isolation is one of paths only: the interpreter is the user's, so the folder
that holds torch is known. It is appended to the path, behind everything that the isolated build
brings, so nothing of the build's own is shadowed. Front ends that isolate by an interpreter of
their own (``python -m build``, uv) show the environment that is activated, if one is; without it
they get an error that says what to do.

What is missing is said in one sentence before anything is compiled; setup.py calls `check_tools`
too, for those who run it without a front end.
"""

import importlib.machinery
import importlib.metadata
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig

from setuptools import build_meta

OLDEST_TORCH = (2, 10)
OLDEST_SETUPTOOLS = (77, 0)
# The oldest compilers that are known to read the sources; g++ 10 lacks parts of C++20.
COMPILES = """
#if !defined(__clang__) && __GNUC__ < 11
#error older than g++ 11
#endif
#include <bit>
#include <span>
template <class T> concept number = requires(T x) { x + x; };
static_assert(number<int> && std::bit_width(4u) == 3);
"""


def index_description(readme):
    """README as a package index shows it, where pictures and links into the repository are dead."""
    relative = r"\((?![a-z]+:)[^)\s]*\)"
    text = re.sub(rf"^!\[[^]]*\]{relative}\n\n?", "", readme, flags=re.MULTILINE)
    return re.sub(rf"\[([^]]+)\]{relative}", r"\1", text)


def package_folders():
    """Where packages are: this interpreter's, and those of the environment that is activated."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    folders += site.getsitepackages()
    if sys.prefix == sys.base_prefix:
        folders.append(site.getusersitepackages())
    active = os.environ.get("VIRTUAL_ENV")
    if active:
        scheme = {"base": active, "platbase": active}
        folders += [sysconfig.get_path(p, "venv", scheme) for p in ("purelib", "platlib")]
    return list(dict.fromkeys(folders))


def refuse(what, *commands):
    """End the build, saying what is wrong and which commands put it right."""
    lines = "".join(f"    {command}\n" for command in commands)
    raise SystemExit(f"\npolygraph: {what}\n{lines}")


def refuse_torch(what):
    """End the build for want of a torch to build against."""
    oldest = ".".join(map(str, OLDEST_TORCH))
    refuse(
        f"{what} Install torch into the environment that polygraph is for, then build without "
        "isolation (`python -m build --no-isolation` and `uv pip install --no-build-isolation .` "
        "alike):",
        f"pip install 'torch>={oldest}' 'setuptools>=77.0.3' ninja",
        "pip install --no-build-isolation .",
    )


def numbers(version):
    """The first two numbers of a version."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def show_torch():
    """Put the installed torch on the path, if the isolated build hides it."""
    folders = package_folders()
    if importlib.machinery.PathFinder.find_spec("torch") is None:
        home = next(
            (f for f in folders if importlib.machinery.PathFinder.find_spec("torch", [f])), None
        )
        if home is None:
            refuse_torch(f"it builds against torch, which {sys.executable} does not have.")
        sys.path.append(home)
        # torch's own dependencies may lie in another of them.
        sys.path.extend(folder for folder in folders if folder not in sys.path)
    version = importlib.metadata.version("torch")
    if numbers(version) < OLDEST_TORCH:
        refuse_torch(f"it needs torch >= {'.'.join(map(str, OLDEST_TORCH))}, found {version}.")


def compiler():
    """The C++ compiler that torch's build calls, and what it says of itself; refuses without."""
    name = os.environ.get("CXX", "c++").split()
    advice = ["apt-get install g++          # Debian 12, Ubuntu 22.04 and newer"]
    advice += ["conda install -c conda-forge gxx   # or, without root, in a conda environment"]
    advice += ["CXX=g++-13 pip install .     # or name one that is there"]
    program = shutil.which(name[0])
    if program is None:
        refuse(f"it needs a C++ compiler, g++ 11 or newer: {name[0]!r} was not found.", *advice)
    said = subprocess.run([*name, "--version"], capture_output=True, text=True).stdout
    version = (said.splitlines() or [program])[0]
    command = [*name, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
    if subprocess.run(command, input=COMPILES, capture_output=True, text=True).returncode:
        refuse(f"it needs g++ 11 or newer, or a clang that reads C++20: found {version}.", *advice)
    return version


def check_tools():
    """Refuse to begin where something is missing that is needed later; returns the compiler."""
    import setuptools

    if sys.platform != "linux":
        refuse(f"it builds on Linux (in WSL too), this is {sys.platform}.")
    if numbers(setuptools.__version__) < OLDEST_SETUPTOOLS:
        found = f"it needs setuptools >= 77.0.3 to build, found {setuptools.__version__}."
        refuse(found, "pip install 'setuptools>=77.0.3' ninja")
    if shutil.which("ninja") is None:  # the environment's own, where it is not activated
        os.environ["PATH"] += os.pathsep + sysconfig.get_path("scripts")
    if shutil.which("ninja") is None:
        refuse("it needs ninja to build, which was not found.", "pip install ninja")
    return compiler()


def _checked(hook):
    def run(*args, **kwargs):
        show_torch()
        check_tools()
        return hook(*args, **kwargs)

    return run


# What only reads the sources needs neither torch nor compiler.
build_sdist = build_meta.build_sdist
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
build_wheel = _checked(build_meta.build_wheel)
build_editable = _checked(build_meta.build_editable)
get_requires_for_build_wheel = _checked(build_meta.get_requires_for_build_wheel)
get_requires_for_build_editable = _checked(build_meta.get_requires_for_build_editable)
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
