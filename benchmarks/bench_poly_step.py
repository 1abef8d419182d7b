"""The fused polynomial step against its composition from PyTorch's own operators."""

from __future__ import annotations

import torch
from harness import Benchmark, Contender, Problem, Workload, copy_floor, main, upstream
from inputs import normal, to_float64
from torch import Tensor

from polygraph import ops, reference

WORKLOADS = [
    Workload("5023, D 16", {"B": 16, "V": 5023, "D": 16, "skip": 0, "own": 0}),
    Workload("5023, D 16, skip", {"B": 16, "V": 5023, "D": 16, "skip": 1, "own": 0}),
    Workload("5023, D 16, per vertex", {"B": 16, "V": 5023, "D": 16, "skip": 0, "own": 1}),
    Workload("5023, D 3", {"B": 16, "V": 5023, "D": 3, "skip": 0, "own": 0}),
    Workload("5023, D 3, per vertex", {"B": 16, "V": 5023, "D": 3, "skip": 0, "own": 1}),
    Workload("1256, D 16", {"B": 16, "V": 1256, "D": 16, "skip": 0, "own": 0}),
    Workload("5023, D 32", {"B": 16, "V": 5023, "D": 32, "skip": 0, "own": 0}),
]
TINY = {"B": 2, "V": 40, "D": 16, "skip": 1, "own": 1}
SETTINGS = {"norm": "rms", "eps": 1.0, "activation": "elu"}


def make(sizes: dict[str, int], device: str) -> Problem:
    """Ours, and the same formula operator by operator."""
    B, V, D = (sizes[n] for n in "BVD")
    a = normal(B, V, D, seed=0, device=device).requires_grad_()
    s = normal(B, V, D, seed=1, device=device).requires_grad_()
    own = [V] * sizes["own"]  # a scale and a bias of its own for every vertex
    scale = normal(*own, D, seed=2, device=device).requires_grad_()
    bias = normal(*own, D, seed=3, device=device).requires_grad_()
    leaves = [a, s, scale, bias]
    if sizes["skip"]:
        leaves.append(normal(B, V, D, seed=4, device=device).requires_grad_())

    def by(function, tensors: list[Tensor]) -> Tensor:
        skip = tensors[4] if sizes["skip"] else None
        return function(*tensors[:3], bias=tensors[3], skip=skip, **SETTINGS)

    def definition() -> tuple[Tensor, list[Tensor]]:
        exact = to_float64(*leaves)
        out = by(reference.poly_step, exact)
        grads = torch.autograd.grad(out, exact, upstream(out.shape, device).cpu().double())
        return out, list(grads)

    wide = 2 + sizes["skip"]  # tensors [B, V, D] read, and as many gradients written
    numbers = B * V * D
    return Problem(
        {
            "ours": Contender("ours", lambda: by(ops.poly_step, leaves), leaves),
            "plain PyTorch": Contender("peer", lambda: by(reference.poly_step, leaves), leaves),
            # forward: read a, s (skip), write out; backward: read the gradient, out, a, s too
            "copy": copy_floor((wide + 1) * numbers, (2 * wide + 5) * numbers, device),
        },
        definition,
        (B, V, D),
    )


if __name__ == "__main__":
    main(
        Benchmark(
            "poly_step",
            WORKLOADS,
            make,
            quick=["5023, D 16", "1256, D 16"],
            tiny=TINY,
        )
    )
