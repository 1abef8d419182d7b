"""A process in which CUDA kernels run on the host: the edge-wise halves of ECC in all shapes.

    python -m support.emulated_ecc [all]

Prints what is wrong, and how many calls were compared. Every second large shape takes one option in
turn; with `all` every one takes two, as the others do.
"""

import itertools
import random
import sys

import emulator
import torch

import polygraph.ops  # noqa: F401
from polygraph.ops.graph_side import GraphSide
from support.tolerances import KERNEL

# H' without the column of ones, C: for every kernel widths that it reads in packs and others, near
# its bounds; columns in several tiles, rows in several blocks, long depths.
SMALL = [
    (9, 16),
    (8, 16),
    (9, 3),
    (7, 5),
    (1, 1),
    (11, 1),
    (0, 4),
    (5, 8),
    (4, 33),
    (7, 64),
    (7, 128),
]
LARGE = [
    (133, 12),
    (300, 7),
    (67, 68),
    (66, 66),
    (11, 132),
    (4, 300),
    (3, 530),
    (133, 132),
    (290, 35),
]
HALF_SHAPES = [(9, 16), (300, 7), (66, 66), (11, 132)]
# φ of nodes, x of edges, x of nodes made, a column of ones, what edge_inner_ writes, added
OPTIONS = [
    (False, False, False, True, "ay", True),
    (True, False, True, False, "ay", False),
    (False, True, False, False, "a", False),
    (True, False, False, True, "y", True),
]
# Orders of threads, and by how many numbers operands are off an aligned address: the first, and of
# the others one, in turns.
RUNS = [(0, 0), (1, 1), (7, 3)]
TOLERANCE = {**KERNEL, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # a few roundings of a result


def normal(seed, *shape):
    """Normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Case:
    """Arguments, and expected results in float64."""

    def __init__(self, seed, H, C, options, dtype):
        draw = random.Random(seed)
        self.made, self.per_edge, self.near, self.ones, self.writes, self.add = options
        degrees = [
            draw.choice([0, 1, 6, 7, 8, 9, 15, 17, 33]) for _ in range(5 if H * C > 999 else 30)
        ]
        degrees += [0, draw.choice([100, 300]), 0]
        S, O, E = len(degrees), 6, sum(degrees)  # noqa: E741
        self.ptr = torch.tensor([0, *itertools.accumulate(degrees)])
        self.slot = torch.tensor(draw.sample(range(E), E)) if seed % 2 else None
        self.other = torch.tensor([draw.randint(-1, O - 1) for _ in range(E)])
        self.rows = E + 2
        self.edge = torch.tensor(draw.sample(range(E + 2), E))
        self.first, self.last = draw.choice([(0, S), (1, S - 1)])
        self.O = O
        shapes = [(self.rows, H), (S, H), (O, H), (self.rows if self.per_edge else O, C), (S, C)]
        shapes.append((self.last - self.first, H + self.ones, C))
        values = [normal(seed + n, *shape).to(dtype) for n, shape in enumerate(shapes)]
        self.values, self.dtype = values, dtype
        slots = torch.arange(E) if self.slot is None else self.slot
        of = torch.repeat_interleave(torch.arange(S), self.ptr.diff())
        kept = (self.other[slots] >= 0) & (of >= self.first) & (of < self.last)
        of, slots = of[kept], slots[kept]
        self.visited, o = self.edge[slots], self.other[slots]
        phi, u, v, x, near, G = (value.double() for value in values)
        f = torch.nn.functional.leaky_relu(u[of] + v[o], 0.2) if self.made else phi[self.visited]
        if self.ones:
            f = torch.cat([f, f.new_ones(len(f), 1)], 1)
        x = x[self.visited] if self.per_edge else x[o]
        if self.near:
            x = torch.nn.functional.leaky_relu(near[of] + x, 0.2)
        of = of - self.first
        self.expected = [
            torch.zeros_like(G).index_add_(0, of, f[:, :, None] * x[:, None]),
            torch.einsum("ehc,ec->eh", G[of], x),
            torch.einsum("ehc,eh->ec", G[of], f) + (3 if self.add else 0),
        ]

    def run(self, order, offset):
        """Z, what `a` is a part of, and y."""
        emulator.set_order(order)

        def moved(value):
            room = torch.empty(value.numel() + offset, dtype=self.dtype)[offset:].view(value.shape)
            return room.copy_(value)

        phi, u, v, x, near, G = (moved(value) for value in self.values)
        given = [u, v] if self.made else [phi]
        side = GraphSide(self.ptr, self.slot, self.other, self.edge, None, None, None)
        rows = [near, x] if self.near else [x]
        inputs = (given, 0.2, rows, self.per_edge, self.O, self.first, *side.packed())
        z, y = torch.full_like(G, 7), moved(torch.full((self.rows, x.shape[1]), 3.0))
        wide = torch.full((self.rows, G.shape[1] + 2), 7, dtype=self.dtype)
        torch.ops.polygraph.edge_outer_(*inputs, z)
        a = wide[:, 1:-1]
        outputs = (a if "a" in self.writes else None, y if "y" in self.writes else None)
        torch.ops.polygraph.edge_inner_(G, *inputs, *outputs, self.add)
        return z, wide, y

    def faults(self, z, wide, y):
        """What is wrong with results of `run`."""
        visited, rest = self.visited, torch.ones(self.rows, dtype=torch.bool)
        rest[visited] = False
        if not ((wide[:, [0, -1]] == 7).all() and (wide[rest] == 7).all() and (y[rest] == 3).all()):
            yield "writes elsewhere"
        found = [z, wide[visited, 1:-1], y[visited]]
        for name, actual, value in zip("zay", found, self.expected, strict=True):
            if name not in "z" + self.writes:
                value = torch.full_like(value, 7 if name == "a" else 3)
            allowed = TOLERANCE[self.dtype] * (1 + (value.abs().max() if value.numel() else 0))
            if not ((actual.double() - value).abs() <= allowed).all():
                yield name


def main(every=False):
    """All shapes, with options in turn."""
    emulator.load()
    compared = 0
    wide = [(shape, dtype) for shape in SMALL + LARGE for dtype in (torch.float32, torch.float64)]
    half = [(shape, dtype) for shape in HALF_SHAPES for dtype in (torch.float16, torch.bfloat16)]
    for number, ((H, C), dtype) in enumerate(wide + half):
        turns = 2 if every or (H, C) in SMALL else 1 - LARGE.index((H, C)) % 2
        for turn in range(turns):
            options = OPTIONS[(number + number // 4 + 2 * turn) % 4]
            case = Case(10 * number + turn, H, C, options, dtype)
            runs = (RUNS[0], RUNS[1 + (number + turn) % 2])
            results = [case.run(*run) for run in runs]
            compared += len(results)
            for fault in case.faults(*results[0]):
                print(f"{fault}: {H} x {C}, {dtype}, {options}")
            for run, result in zip(runs, results, strict=True):
                if not all(map(torch.equal, result, results[0])):
                    print(f"differs: {H} x {C}, {dtype}, {options}, {run}")
    print(f"compared: {compared}")


if __name__ == "__main__":
    main("all" in sys.argv[1:])
