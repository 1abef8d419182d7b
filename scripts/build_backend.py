"""PEP 517 backend: setuptools, with the torch that is installed already.

A front end builds in an environment of its own, without the packages that the user has. polygraph
builds against torch; fetching it anew would take gigabytes, and might give another build of it than
the user runs. pip's isolation is one of paths only: the interpreter is the user's, so the folder
that holds torch is known. It is appended to the path, behind everything that the isolated build
brings, so nothing of the build's own is shadowed. Front ends that isolate by an interpreter of
their own (``python -m build``, uv) do not show torch; they get an error that says what to do.
"""

import importlib.machinery
import importlib.metadata
import re
import site
import sys
import sysconfig

from setuptools import build_meta

OLDEST_TORCH = (2, 10)


def package_folders():
    """Where this interpreter keeps installed packages, whether or not they are on the path."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    folders += site.getsitepackages()
    if sys.prefix == sys.base_prefix:
        folders.append(site.getusersitepackages())
    return list(dict.fromkeys(folders))


def refuse(what):
    """End the build, saying what is wrong and which commands put it right."""
    oldest = ".".join(map(str, OLDEST_TORCH))
    raise SystemExit(
        f"\npolygraph: {what} Install torch into the environment that polygraph is for, then build "
        "without isolation:\n"
        f"    pip install 'torch>={oldest}' 'setuptools>=77.0.3' ninja\n"
        "    pip install --no-build-isolation .\n"
        "(`python -m build --no-isolation` and `uv pip install --no-build-isolation .` alike.)\n"
    )


def show_torch():
    """Put the installed torch on the path, if the isolated build hides it."""
    folders = package_folders()
    if importlib.machinery.PathFinder.find_spec("torch") is None:
        home = next(
            (f for f in folders if importlib.machinery.PathFinder.find_spec("torch", [f])), None
        )
        if home is None:
            refuse(f"it builds against torch, which {sys.executable} does not have.")
        sys.path.append(home)
        # torch's own dependencies may lie in another of them.
        sys.path.extend(folder for folder in folders if folder not in sys.path)
    version = importlib.metadata.version("torch")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TORCH:
        refuse(f"it needs torch >= {'.'.join(map(str, OLDEST_TORCH))}, found {version}.")


def _with_torch(hook):
    def run(*args, **kwargs):
        show_torch()
        return hook(*args, **kwargs)

    return run


# An sdist runs setup.py as well, which imports torch.
build_sdist = _with_torch(build_meta.build_sdist)
build_wheel = _with_torch(build_meta.build_wheel)
build_editable = _with_torch(build_meta.build_editable)
get_requires_for_build_sdist = _with_torch(build_meta.get_requires_for_build_sdist)
get_requires_for_build_wheel = _with_torch(build_meta.get_requires_for_build_wheel)
get_requires_for_build_editable = _with_torch(build_meta.get_requires_for_build_editable)
prepare_metadata_for_build_wheel = _with_torch(build_meta.prepare_metadata_for_build_wheel)
prepare_metadata_for_build_editable = _with_torch(build_meta.prepare_metadata_for_build_editable)
