"""A process in which CUDA kernels run on the host: segments around the lengths of their pieces.

    python -m support.emulated_segments

Prints what differs from the CPU's results, or between two orders of threads, and how many results
were compared.
"""

import ctypes
import math

import emulator
import torch

from polygraph import ops
from support.calls import convert, run, run_reference
from support.tolerances import KERNEL, relative_error

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LENGTHS = {
    "around pieces": (255, 0, 256, 257, 3, 0, 0, 512, 513, 1),
    "hub first": (1500, 2, 0, 700),
    "hub last": (3, 130, 126, 1100),
    "one hub": (600,),
    "short": (0, 7, 3, 40, 0),
}
CHANNELS = (3, 16, 132)  # without packs, in packs, and more packs than lanes


def normal(*shape, seed):
    """Normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def graph(lengths, sources):
    """Some slots are empty; many leave the last source, so that its list is long as well."""
    ptr = torch.tensor([0, *lengths]).cumsum(0)
    source = torch.randint(-1, 2 * sources, (int(ptr[-1]),), generator=torch.Generator())
    return ops.Graph(ptr, source.clamp(max=sources - 1)).with_transposed(sources)


def edge_sum(u, v, weight, **parts):
    """A sum with activation and weights; its gradients are sums and dots."""
    return ops.edge_conv(u, v, ops.Graph(**parts), "sum", 0.2, weight=weight)


def edge_max(v, **parts):
    """The first of equals, NaN before numbers, places and sums."""
    special = {2: math.nan, 3: -math.inf}
    v = (2 * v).round()
    for channel, value in special.items():
        marked = torch.zeros_like(v, dtype=torch.bool)
        marked[1::2, channel % v.shape[1]] = True
        v = v.masked_fill(marked, value)
    value, arg, total = ops.edge_max(v, ops.Graph(**parts), with_sum=True)
    return torch.cat([value.nan_to_num(7, 9, -9), arg.to(v.dtype), total.nan_to_num(7, 9, -9)])


def maximum(u, v, **parts):
    """The gradient that chooses slots."""
    return ops.edge_conv(u, v, ops.Graph(**parts), "max", 0.2)


def edge_softmax(u, v, **parts):
    """A share that is infinite in one column, and a gradient over long segments."""
    return ops.edge_softmax(4 * u, v, ops.Graph(**parts), 0.2)


def edge_values(u, v, **parts):
    """No sums: what a piece writes."""
    return ops.edge_values(u, v, ops.Graph(**parts), 0.2)


def cases():
    """Name -> operator, arguments."""
    for kind, lengths in LENGTHS.items():
        sources = 9
        g = graph(lengths, sources)
        parts = {name: part for name, part in g._asdict().items() if part is not None}
        for D in CHANNELS:
            u, v = normal(g.num_targets, D, seed=1), normal(sources, D, seed=2)
            weight = normal(g.num_slots, seed=3)
            yield f"edge_sum {kind} {D}", edge_sum, {"u": u, "v": v, "weight": weight, **parts}
            yield f"edge_max {kind} {D}", edge_max, {"v": v, **parts}
            yield f"maximum {kind} {D}", maximum, {"u": u, "v": v, **parts}
            yield f"edge_softmax {kind} {D}", edge_softmax, {"u": u, "v": v, **parts}
            yield f"edge_values {kind} {D}", edge_values, {"u": u, "v": v, **parts}


def main():
    """Compare with the CPU library, then between orders of threads.

    Every operator meets every dtype at every width, and on two graphs or three.
    """
    made = [
        (name, op, dtype, convert(inputs, dtype=dtype))
        for number, (name, op, inputs) in enumerate(cases())
        for dtype in (DTYPES[::2] if number // 5 % 2 else DTYPES[1::2])
    ]
    expected = [run_reference(op, inputs) for _, op, _, inputs in made]
    library = emulator.build()
    emulator.load(library)
    order = ctypes.CDLL(str(library)).emulator_set_order
    compared = 0
    for (name, op, dtype, inputs), wanted in zip(made, expected, strict=True):
        order(0)
        actual = run(op, inputs)
        order(7)
        again = run(op, inputs)
        for result, value in wanted.items():
            compared += 1
            error = relative_error(actual[result], value)
            if not error <= 4 * KERNEL[dtype]:  # the longest sums here have 1,500 terms
                print(f"differs: {name}, {dtype}: {result} by {error:.1e}")
            if not torch.equal(actual[result], again[result]):
                print(f"depends on the order of threads: {name}, {dtype}: {result}")
    print(f"compared: {compared}")


if __name__ == "__main__":
    main()
