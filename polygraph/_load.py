"""Load the compiled libraries, or raise one readable error."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
from pathlib import Path

import torch

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


@functools.cache
def load_libraries() -> None:
    """Load ``_C``, and ``_C_cuda`` where it was built and torch has CUDA.

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
