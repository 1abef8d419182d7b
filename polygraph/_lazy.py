"""Packages whose names are imported when somebody asks for them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from polygraph._names import did_you_mean


def lazy(
    package: str, modules: Collection[str] = (), names: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package.

    Type checkers do not run it: tell them the same under ``if TYPE_CHECKING``.

    Args:
        package: its ``__name__``.
        modules: modules of the package that are imported when they are asked for.
        names: what else is, and the module of the package that has it.

    Returns:
        Both functions. The first raises AttributeError on an unknown name, and suggests the
        nearest.
    """
    places = dict(names or {})

    def get(name: str) -> Any:
        if name in places:
            return getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        hint = "" if name.startswith("_") else did_you_mean(name, known())
        raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}")

    def known() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places, *modules})

    return get, known
