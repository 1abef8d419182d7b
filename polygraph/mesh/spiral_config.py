"""The settings of spirals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class SpiralConfig:
    """How the spirals of a hierarchy are made.

    ``hops`` and ``dilation`` name one value per level, finest first; the last holds for all coarser
    levels. The published 2-ring setting is ``hops=(2, 2, 1), dilation=(2, 2, 1)``.

    Attributes:
        convention: "neural3dmm" (counter-clockwise, rings, start towards the reference, -1 padding)
            or "spiralnet++" (clockwise, OpenMesh's start, fixed length).
        hops: rings per spiral; "neural3dmm" only.
        dilation: keep every dilation-th vertex of a spiral.
        length: slots per spiral; None is the convention's own: int(mean + 2 std) of the lengths, or
            9 for "spiralnet++".
        reference: vertex of the finest level that the spirals start towards, or several, one for
            each component (published for CoMA: 3567, 4051, 4597, the head and the eyes); None takes
            the one furthest from the middle of the bounding box. "neural3dmm" only.
    """

    convention: Literal["neural3dmm", "spiralnet++"] = "neural3dmm"
    hops: tuple[int, ...] = (1,)
    dilation: tuple[int, ...] = (1,)
    length: int | None = None
    reference: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check every field, and turn lists into tuples."""
        if self.convention not in ("neural3dmm", "spiralnet++"):
            raise ValueError(
                f"convention must be 'neural3dmm' or 'spiralnet++', got {self.convention!r}"
            )
        for name in ("hops", "dilation"):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or not values:
                raise ValueError(
                    f"{name} must be a sequence with one number per level, got {values!r}"
                )
            for value in values:
                check_whole(name, value, 1)
            object.__setattr__(self, name, tuple(int(value) for value in values))
        if self.length is not None:
            check_whole("length", self.length, 1)
        if self.reference is not None:
            several = isinstance(self.reference, (tuple, list))
            for value in references_of(self.reference):
                check_whole("reference", value, 0)
            if several:
                object.__setattr__(
                    self, "reference", tuple(map(int, references_of(self.reference)))
                )
        if self.convention == "spiralnet++":
            if set(self.hops) != {1}:
                raise ValueError(
                    f"hops has no meaning with 'spiralnet++' (set length), got {self.hops}"
                )
            if self.reference is not None:
                raise ValueError(
                    f"reference has no meaning with 'spiralnet++', got {self.reference}"
                )

    def at_level(self, level: int) -> tuple[int, int]:
        """The hops and the dilation of a level; 0 is the finest."""
        return self.hops[min(level, len(self.hops) - 1)], self.dilation[
            min(level, len(self.dilation) - 1)
        ]


def references_of(reference: Any) -> list[Any]:
    """One reference or several, as a list."""
    several = isinstance(reference, (tuple, list))
    if several and not reference:
        raise ValueError("reference must name a vertex or several, got none")
    return list(reference) if several else [reference]


def check_whole(name: str, value: Any, low: int) -> None:
    """Refuse what is no integer from ``low`` on and below 2^31."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ValueError(f"{name} must be a whole number >= {low}, got {value!r}")
    if value >= 2**31:
        raise ValueError(f"{name} must be below 2^31, got {value}")
