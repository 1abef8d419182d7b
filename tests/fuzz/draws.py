"""What a case is drawn from: sizes, numbers, tables and graphs, with the nasty ones on purpose.

A `Draw` is a source of choices that depends on (operator, seed, number) alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from support.calls import LAYOUTS

from polygraph.ops import Graph, transpose_table

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
HALF = (F16, BF16)

# One, the widths of vectors (4, 8, 16 numbers) and those beside them.
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33)
# A block of rows has 256 in several kernels.
LARGE = (64, 65, 100, 255, 256, 257, 300, 520)

# Entries [-1, count) of a table are right; these never are, nor is count.
WRONG_ENTRIES = (-2, 2**31, 2**62, 2**63 - 1, -(2**31), -(2**63))


def denormal(dtype: torch.dtype) -> float:
    """The smallest number above 0."""
    info = torch.finfo(dtype)
    return info.tiny * info.eps


class Draw:
    """Random choices of one case.

    Attributes:
        number: of the case.
        about: what was chosen, for the report of a failure.
        moderate: whether all numbers so far are 0 or between 2^-20 and 2^20: no product of a few
            of them overflows float32, or loses digits to underflow.
    """

    def __init__(self, operator: str, seed: int, number: int) -> None:
        entropy = (zlib.crc32(operator.encode()), seed, number)
        self.number = number
        self.rng = np.random.default_rng(np.random.SeedSequence(entropy))
        self.about: dict[str, Any] = {}
        self.moderate = True

    def note(self, **chosen: Any) -> None:
        """Keep for the report."""
        self.about |= chosen

    def chance(self, probability: float) -> bool:
        """True that often."""
        return bool(self.rng.random() < probability)

    def one_of(self, *options: Any) -> Any:
        """Any of these."""
        return options[int(self.rng.integers(len(options)))]

    def integer(self, low: int, high: int) -> int:
        """In [low, high)."""
        return int(self.rng.integers(low, high))

    # ---- sizes ----

    def size(self, *, empty: float = 0.03, large: float = 0.0, most: int = 40) -> int:
        """A number of rows or channels."""
        if self.chance(empty):
            return 0
        if self.chance(large):
            return self.one_of(*LARGE)
        return min(most, self.one_of(*SIZES))

    # ---- numbers ----

    def dtype(self) -> torch.dtype:
        """float32 most often."""
        chosen = self.one_of(F32, F32, F32, F64, F64, F16, BF16)
        self.note(dtype=str(chosen).removeprefix("torch."))
        return chosen

    def _hard(self, dtype: torch.dtype, wild: bool) -> Sequence[float]:
        tame = (0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-4)
        if not wild:
            return tame
        info = torch.finfo(dtype)
        root = math.sqrt(info.max)
        edges = (denormal(dtype), info.tiny, info.tiny / 2, info.eps, root, info.max / 4, info.max)
        return (*tame, *edges, *(-e for e in edges))

    def _of_kind(self, kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> np.ndarray:
        rng = self.rng
        info = torch.finfo(dtype)
        low, high = math.log10(denormal(dtype)) + 1, math.log10(info.max) - 1
        if kind == "whole":
            return rng.integers(-3, 4, shape).astype(float)
        if kind == "few":
            return rng.choice(rng.standard_normal(self.integer(1, 4)), shape)
        if kind == "zeros":
            return np.copysign(np.zeros(shape), rng.standard_normal(shape))
        if kind == "offset":
            return 10.0 ** self.integer(1, 5) + rng.standard_normal(shape) * self.one_of(1.0, 1e-3)
        if kind == "powers":
            near = 10.0 ** rng.uniform(max(low, -20), min(high, 18), shape)
            return np.copysign(near, rng.standard_normal(shape))
        if kind == "tiny":
            return rng.standard_normal(shape) * 10.0 ** rng.uniform(low, low + 10)
        if kind == "huge":
            return rng.standard_normal(shape) * 10.0 ** rng.uniform(high / 2, high)
        values = rng.standard_normal(shape)
        if kind in ("spiced", "wild") and values.size:
            hard = self._hard(dtype, kind == "wild")
            for _ in range(self.integer(1, 5)):
                values.reshape(-1)[self.integer(0, values.size)] = self.one_of(*hard)
        return values

    def numbers(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        *,
        wild: float = 0.25,
        kinds: Sequence[str] = ("normal", "normal", "whole", "few", "zeros", "offset", "spiced"),
    ) -> torch.Tensor:
        """A tensor of one kind of numbers, rounded to the dtype; wild ones that often."""
        extreme = self.chance(wild)
        kind = self.one_of("powers", "tiny", "huge", "wild") if extreme else self.one_of(*kinds)
        values = torch.from_numpy(self._of_kind(kind, tuple(shape), dtype)).to(dtype)
        values = values.nan_to_num(posinf=torch.finfo(dtype).max, neginf=-torch.finfo(dtype).max)
        self.note(**{name: f"{list(shape)} {kind}"})
        if kind not in ("normal", "whole", "zeros"):
            sizes = values.double().abs()
            sizes = sizes[sizes > 0]
            if sizes.numel() and not (sizes.min() > 2**-20 and sizes.max() < 2**20):
                self.moderate = False
        return values

    def laid_out(
        self, name: str, tensor: torch.Tensor, probability: float = 0.3, *, expand: bool = True
    ) -> torch.Tensor:
        """The same numbers, often in another place or order of the memory; perhaps expanded."""
        if not self.chance(probability):
            return tensor
        if expand and tensor.dim() > 1 and tensor.shape[0] > 0 and self.chance(0.2):
            self.note(**{f"{name} layout": "expanded"})
            return tensor[:1].expand_as(tensor)
        layout = self.one_of(*LAYOUTS)
        self.note(**{f"{name} layout": layout})
        return LAYOUTS[layout](tensor)

    # ---- tables and graphs ----

    def entries(self, name: str, shape: tuple[int, ...], count: int, empty: bool) -> torch.Tensor:
        """Entries in [0, count), and -1 if they may be empty: in one of several patterns."""
        patterns = ["any", "any", "one", "last", "few", "in turn"]
        kind = self.one_of(*patterns, *(["none", "holes", "holes"] if empty else []))
        if count == 0:
            kind = "none"
        size = math.prod(shape)
        if kind == "none":
            found = np.full(size, -1)
        elif kind in ("one", "last"):
            found = np.full(size, count - 1 if kind == "last" else self.integer(0, count))
        elif kind == "few":
            found = self.rng.choice(self.rng.integers(0, count, 2), size)
        elif kind == "in turn":
            found = np.arange(size) % count
        else:
            found = self.rng.integers(0, count, size)
            if kind == "holes":
                found[self.rng.random(size) < 0.3] = -1
        self.note(**{name: f"{list(shape)} of {count}, {kind}"})
        return torch.from_numpy(found.astype(np.int64).reshape(shape))

    def table_of(self, index: torch.Tensor, sources: int) -> tuple[torch.Tensor, ...] | None:
        """The transposed table, if it is given."""
        given = self.chance(0.3)
        self.note(transposed=given)
        return transpose_table(index, sources) if given else None

    def graph(self, targets: int, sources: int, *, rows: bool = True) -> Graph:
        """Slots of targets of any degree: isolated ones, a hub, many edges between two nodes."""
        kind = self.one_of("any", "any", "equal", "hub", "one each", "isolated")
        if targets == 0:
            degrees = np.zeros(0, np.int64)
        elif kind == "equal":
            degrees = np.full(targets, self.integer(0, 10))
        elif kind == "hub":
            degrees = self.rng.integers(0, 3, targets)
            degrees[self.integer(0, targets)] = self.one_of(17, 64, 255, 256, 257, 300)
        elif kind == "one each":
            degrees = np.ones(targets, np.int64)
        else:
            degrees = self.rng.integers(0, self.one_of(2, 5, 18), targets)
            if kind == "isolated":
                degrees[self.rng.random(targets) < 0.6] = 0
        ptr = torch.from_numpy(np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64))
        slots = int(ptr[-1])
        self.note(targets=targets, degrees=kind)
        source = self.entries("source", (slots,), sources, True)
        found = Graph(ptr, source)
        if rows and self.chance(0.4):
            self.note(edge="permuted")
            found = found._replace(edge=torch.from_numpy(self.rng.permutation(slots)))
        if self.chance(0.4):
            self.note(transposed=True)
            found = found.with_transposed(sources)
        if self.chance(0.15):
            found = Graph(*(None if t is None else LAYOUTS["sliced"](t) for t in found))
            self.note(graph="strided")
        return found
