"""Load the compiled libraries, or raise one readable error."""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
from pathlib import Path

import torch

import polygraph

OLDEST_TORCH = (2, 10)
REBUILD = (
    "rebuild with `pip install --no-build-isolation --force-reinstall --no-deps .` in the source "
    "folder, with the torch you want to use installed"
)


class LibraryError(ImportError):
    """The compiled library is missing, or does not load with this torch."""


def torch_version() -> tuple[int, int]:
    """Major and minor version of the installed torch."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def find_library(stem: str) -> Path | None:
    """The file of ``polygraph/<stem>``, or None where it was not built."""
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"{stem}{suffix}"
        if path.exists():
            return path
    return None


def _load_library(path: Path) -> None:
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise LibraryError(
            f"polygraph: {path.name} does not load with torch {torch.__version__} "
            f"(CUDA: {torch.version.cuda}): {error.__cause__ or error}; {REBUILD}"
        ) from error


def operators_digest() -> str:
    """A hash of `polygraph.ops`: the operators' schemas are called there, and derivatives made."""
    folder = Path(__file__).parent / "ops"
    digest = hashlib.blake2b(polygraph.__version__.encode(), digest_size=8)
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def tag_compile_caches() -> None:
    """Keep torch.compile from taking graphs that another version of the operators left on disk.

    The key of torch's cache holds the graph that was traced, in which an operator is a name. What
    the operator's derivative or fake kernel traces to is stored under that key, but not part of it:
    without the tag, derivatives of the version that filled the cache would be run, in silence.
    """
    from torch.compiler import config  # an old torch, which is refused by name, has none

    tag = f"polygraph-{operators_digest()}"
    if tag not in config.cache_key_tag:
        config.cache_key_tag = f"{config.cache_key_tag} {tag}".strip()


@functools.cache
def load_libraries() -> None:
    """Load ``_C``, and ``_C_cuda`` where it was built and torch has CUDA.

    From then on the caches of torch.compile are keyed by the version of the operators, too.

    Raises:
        LibraryError: torch is too old, the library was not built, or it does not load; the
            message names the cause, the torch version and how to rebuild.
    """
    if torch_version() < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise LibraryError(
            f"polygraph needs torch >= {oldest}, found {torch.__version__}: "
            f"`pip install 'torch>={oldest}'`"
        )
    path = find_library("_C")
    if path is None:
        raise LibraryError(
            f"polygraph: the compiled library polygraph/_C is missing (torch {torch.__version__}); "
            f"{REBUILD}"
        )
    _load_library(path)
    if torch.version.cuda is not None:
        cuda = find_library("_C_cuda")
        if cuda is not None:
            _load_library(cuda)
    tag_compile_caches()
