"""Which axis of meshes points up: what data say of it, and what is guessed where they do not."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

Up = Literal["auto", "x", "y", "z"]
UPS: tuple[Up, ...] = ("auto", "x", "y", "z")


def checked_up(up: Any) -> Up:
    """``up``, if it is one of `UPS`; ``auto`` means that nobody has said it.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(up, str) or up not in UPS:
        raise ValueError(f"up must be one of {', '.join(UPS)}, got {up!r}")
    return up


def known_up(*said: Up) -> Up:
    """The first of several statements that is not ``auto``."""
    return next((up for up in said if up != "auto"), "auto")


def guess_up(vertices: ArrayLike) -> Up:
    """The longest coordinate axis of a mesh if it stands out and is not x, else y.

    That is right for standing figures and for most files of modelling programs, and wrong for an
    animal that stands on four legs with z up: whoever knows better says so.

    Args:
        vertices: ``[V, 3]``.
    """
    extent = np.ptp(np.asarray(vertices, dtype=np.float64), axis=0)
    longest = int(np.argmax(extent))
    others = np.delete(extent, longest)
    stands_out = longest != 0 and extent[longest] > 1.2 * others.max()
    return UPS[1 + (longest if stands_out else 1)]
