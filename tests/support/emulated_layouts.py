"""A process in which CUDA kernels run on the host: results of aligned tensors and of others.

    python -m support.emulated_layouts

Prints what differs in a bit, and how many results were compared.
"""

import emulator
import torch

from polygraph import ops
from support.calls import LAYOUTS, convert, relaid, run


def normal(*shape, seed=0):
    """Normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(rows, columns, count):
    """A neighbour table with holes."""
    return torch.randint(-1, count, (rows, columns), generator=torch.Generator().manual_seed(0))


def edge_conv(u, v, weight, source, ptr):
    """The operator with its graph in parts."""
    return ops.edge_conv(u, v, ops.Graph(ptr, source), "sum", 0.2, weight=weight)


def cases(D):
    """Name -> operator and arguments, all with D channels."""
    yield (
        "poly_step",
        ops.poly_step,
        {
            "a": normal(2, 300, D),
            "s": normal(2, 300, D, seed=1),
            "scale": normal(D, seed=2),
            "bias": normal(D, seed=3),
            "skip": normal(2, 300, D, seed=4),
            "activation": "elu",
        },
    )
    yield (
        "resample",
        ops.resample,
        {"x": normal(3, 20, D), "index": table(15, 3, 20), "weight": normal(15, 3, seed=1)},
    )
    yield (
        "edge_conv",
        edge_conv,
        {
            "u": normal(12, D),
            "v": normal(20, D, seed=1),
            "weight": normal(60, seed=2),
            "source": table(12, 5, 20).flatten(),
            "ptr": torch.arange(13) * 5,
        },
    )
    yield (
        "spiral_conv",
        ops.spiral_conv,
        {
            "x": normal(2, 20, D),
            "index": table(15, 4, 20),
            "weight": normal(16, 4 * D, seed=1),
            "bias": normal(16, seed=2),
        },
    )


def main():
    """Every operator, dtype and layout; channels that packs divide, few and many."""
    emulator.load()
    compared = 0
    for D in (8, 40, 136):
        for name, op, case in cases(D):
            for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
                inputs = convert(case, dtype=dtype)
                expected = run(op, inputs)
                for layout in LAYOUTS:
                    actual = run(op, relaid(inputs, layout))
                    for result, value in expected.items():
                        compared += 1
                        if not torch.equal(actual[result], value):
                            print(f"differs: {name}, {D}, {dtype}, {layout}: {result}")
    print(f"compared: {compared}")


if __name__ == "__main__":
    main()
