"""Mesh resampling against sparse and dense products, and against a gather with weights."""

from __future__ import annotations

import torch
from harness import Benchmark, Contender, Problem, Workload, copy_floor, main, upstream
from inputs import near_table, normal, to_float64
from torch import Tensor

from polygraph import ops, reference

WORKLOADS = [
    Workload("1256->5023, C 16", {"B": 16, "V": 1256, "M": 5023, "T": 3, "C": 16}),
    Workload("1256->5023, C 32", {"B": 16, "V": 1256, "M": 5023, "T": 3, "C": 32}),
]
TINY = {"B": 2, "V": 10, "M": 40, "T": 3, "C": 16}


def make(sizes: dict[str, int], device: str) -> Problem:
    """Ours and the three ways in use: torch.sparse (CoMA), dense (Neural3DMM), gather."""
    B, V, M, T, C = (sizes[n] for n in "BVMTC")
    index = near_table(M, T, V, device)
    transposed = ops.transpose_table(index, V)
    weight = normal(M, T, seed=1, device=device).abs()
    weight = weight / weight.sum(1, keepdim=True)
    x = normal(B, V, C, seed=0, device=device).requires_grad_()
    rows = torch.arange(M, device=device).repeat_interleave(T)
    places = torch.stack([rows, index.flatten()])
    sparse = torch.sparse_coo_tensor(places, weight.flatten(), (M, V), check_invariants=True)
    sparse = sparse.coalesce()
    dense = sparse.to_dense()

    def ours() -> Tensor:
        return ops.resample(x, index, weight, transposed=transposed)

    def by_sparse() -> Tensor:
        out = torch.sparse.mm(sparse, x.permute(1, 0, 2).reshape(V, B * C))
        return out.view(M, B, C).permute(1, 0, 2)

    def by_dense() -> Tensor:
        return torch.matmul(dense, x)

    def by_gather() -> Tensor:
        taken = torch.index_select(x, 1, index.flatten()).view(B, M, T, C)
        return (taken * weight[..., None]).sum(2)

    def definition() -> tuple[Tensor, list[Tensor]]:
        (exact,) = to_float64(x)
        out = reference.resample(exact, index.cpu(), weight.cpu().double())
        grads = torch.autograd.grad(out, [exact], upstream(out.shape, device).cpu().double())
        return out, list(grads)

    once = B * (V + M) * C  # forward reads x and writes out; backward moves as much again
    return Problem(
        {
            "ours": Contender("ours", ours, [x]),
            "sparse.mm": Contender("peer", by_sparse, [x]),
            "dense product": Contender("peer", by_dense, [x]),
            "index_select + weights": Contender("peer", by_gather, [x]),
            "copy": copy_floor(once, 2 * once, device),
        },
        definition,
        (B, M, C),
        buffer_mib=B * M * T * C * 4 / 2**20,
    )


if __name__ == "__main__":
    main(Benchmark("resample", WORKLOADS, make, quick=["1256->5023, C 16"], tiny=TINY))
