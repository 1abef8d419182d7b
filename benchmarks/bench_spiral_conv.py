"""Spiral convolution against SpiralNet++'s way and against the matrix product alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from harness import (
    BOTH,
    FORWARD,
    MIB,
    Benchmark,
    Contender,
    Problem,
    Target,
    Workload,
    main,
    upstream,
)
from inputs import near_table, normal, to_float64
from torch import Tensor

from polygraph import ops, reference

WORKLOADS = [
    Workload("5023/9/3->16", {"B": 16, "V": 5023, "S": 9, "C": 3, "D": 16}),
    Workload("5023/9/16->16", {"B": 16, "V": 5023, "S": 9, "C": 16, "D": 16}),
    Workload("1256/9/16->16", {"B": 16, "V": 1256, "S": 9, "C": 16, "D": 16}),
    Workload("6890/12/3->16", {"B": 16, "V": 6890, "S": 12, "C": 3, "D": 16}),
    Workload("5023/18/32->32", {"B": 16, "V": 5023, "S": 18, "C": 32, "D": 32}),
    Workload("3446/9/16->16", {"B": 16, "V": 3446, "S": 9, "C": 16, "D": 16}),
]
TINY = {"B": 2, "V": 40, "S": 9, "C": 3, "D": 16}


def make(sizes: dict[str, int], device: str) -> Problem:
    """Ours, SpiralNet++'s gather and Linear, and the product of a matrix gathered beforehand."""
    B, V, S, C, D = (sizes[n] for n in "BVSCD")
    index = near_table(V, S, V, device)
    transposed = ops.transpose_table(index, V)
    flat_index = index.flatten()
    x = normal(B, V, C, seed=0, device=device).requires_grad_()
    weight = (normal(D, S * C, seed=1, device=device) / (S * C) ** 0.5).requires_grad_()
    bias = normal(D, seed=2, device=device).requires_grad_()
    gathered = x.detach()[:, index].reshape(B * V, S * C).requires_grad_()

    def ours() -> Tensor:
        return ops.spiral_conv(x, index, weight, bias, transposed=transposed)

    def peer() -> Tensor:
        return F.linear(torch.index_select(x, 1, flat_index).view(B, V, S * C), weight, bias)

    def product() -> Tensor:
        return F.linear(gathered, weight, bias).view(B, V, D)

    def definition() -> tuple[Tensor, list[Tensor]]:
        exact = to_float64(x, weight, bias)
        out = reference.spiral_conv(exact[0], index.cpu(), *exact[1:])
        grads = torch.autograd.grad(out, exact, upstream(out.shape, device).cpu().double())
        return out, list(grads)

    leaves = [x, weight, bias]
    return Problem(
        {
            "ours": Contender("ours", ours, leaves),
            "index_select + Linear": Contender("peer", peer, leaves),
            "product": Contender("floor", product, [gathered, weight, bias], checked=(FORWARD,)),
        },
        definition,
        (B, V, D),
        buffer_mib=B * V * S * C * 4 / MIB,
    )


def forward_over_product(row):
    """Ours / floor, where the features are wide enough for a promise."""
    wide = row["sizes"]["C"] >= 16 and row["pass"] == FORWARD
    return row["ratios"]["ours / product"]["median"] if wide else None


def training_over_peer(row):
    """Peer / ours of a training step."""
    return row["ratios"]["index_select + Linear / ours"]["median"] if row["pass"] == BOTH else None


def share_of_buffer(row):
    """What is held beyond the results, as a share of the gathered buffer [B, V, S*C]."""
    if "memory_mib" not in row:
        return None
    return (row["memory_mib"]["ours"] - row["result_mib"]) / row["buffer_mib"]


TARGETS = [
    Target("forward at most 1.25 x the product", forward_over_product, at_most=1.25),
    Target("forward+backward at least 3 x as fast as the peer", training_over_peer, at_least=3),
    Target("no [B, V, S*C] buffer: share held of it", share_of_buffer, at_most=0.5),
]

if __name__ == "__main__":
    main(
        Benchmark(
            "spiral_conv",
            WORKLOADS,
            make,
            quick=["5023/9/16->16", "1256/9/16->16"],
            tiny=TINY,
            targets=TARGETS,
        )
    )
